# SPDX-License-Identifier: MIT
"""The Python code of README.md and docs/python.md runs and prints what stands under it; so do the
examples; every public name is documented."""

import inspect
import os
import re
import subprocess
import sys

import pytest

import gqmm

from conftest import ROOT

NEEDS = {"torch_user": ["torch", "transformers", "tokenizers"], "mlx_user": ["mlx.core"],
         "engine_author": []}


def blocks(path):
    """(code, what it prints or None) for each fenced Python block."""
    text = (ROOT / path).read_text()
    return re.findall(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", text, re.S | re.M)


def run(arguments, needs=(), **options):
    for module in needs:
        pytest.importorskip(module, reason=f"{module} is not installed")
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True,
                          env=env, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", ["README.md", "docs/python.md"])
def test_blocks(path, tmp_path, story):
    found = blocks(path)
    assert found
    started = []  # side by side: most of their time is imports
    for i, (code, printed) in enumerate(found):
        needs = [m for m in ("torch", "transformers", "mlx.core") if re.search(
            rf"^(import|from) .*\b{re.escape(m)}\b", code, re.M)]
        script = tmp_path / f"block{i}.py"
        script.write_text(code)
        if needs and any(_absent(m) for m in needs):
            continue
        started.append((i, printed, subprocess.Popen(
            [sys.executable, str(script)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)))
    for i, printed, process in started:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, out + errors
        if printed:
            assert out == printed, f"{path}, block {i}"


def _absent(module):
    try:
        __import__(module)
    except ImportError:
        return True
    return False


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_examples(name, story):
    out = run([f"python/examples/{name}.py"] + (["30"] if name == "torch_user" else []),
              NEEDS[name])
    assert {"engine_author": "largest difference to the fused block", "mlx_user": "gradient",
            "torch_user": "\nthe same text\n"}[name] in out


def test_overhead_script():
    pytest.importorskip("mlx.core", reason="mlx is not installed")
    out = run(["bench/python_overhead.py", "--seconds", "0.01", "--json"])
    assert '"beyond_c_ns"' in out and '"ratio"' in out


def test_everything_public_is_documented():
    for name in gqmm.__all__:
        thing = getattr(gqmm, name)
        assert inspect.getdoc(thing), name
    for method in ("from_mlx", "from_int4", "from_gguf", "from_blocks", "from_array", "quantize",
                   "dequantize", "repack"):
        assert inspect.getdoc(getattr(gqmm.Weights, method)), method


def test_signatures_are_mlx():
    mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
    for name in ("quantized_matmul", "gather_qmm", "quantize", "dequantize"):
        theirs = re.match(r"\w+\((.*)\) ->", getattr(mx, name).__doc__)[1]
        wanted = re.findall(r"(\w+): [^,=]*(?:=\s*([^,]+))?", re.sub(r"[\[(][^\])]*[\])]", "",
                                                                     theirs))
        ours = inspect.signature(getattr(gqmm, name)).parameters
        common = [n for n in ours if n in dict(wanted)]
        assert common == [n for n, _ in wanted], name
        for n, default in wanted:
            mine = ours[n].default
            if default.strip():
                assert repr(mine) == default.strip(), (name, n)
            elif n not in ("scales",):
                assert mine is inspect.Parameter.empty, (name, n)
