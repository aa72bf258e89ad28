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


def blocks():
    """(code, what it prints or None) for each fenced Python block of the documents."""
    for path in ("README.md", "docs/python.md"):
        text = (ROOT / path).read_text()
        found = re.findall(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", text,
                           re.S | re.M)
        assert found, path
        for i, block in enumerate(found):
            yield pytest.param(*block, id=f"{path}-{i}")


def run(arguments, needs=(), **options):
    for module in needs:
        pytest.importorskip(module, reason=f"{module} is not installed")
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True,
                          env=env, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("code, printed", list(blocks()))
def test_blocks(code, printed, tmp_path, story):
    script = tmp_path / "block.py"
    script.write_text(code)
    out = run([str(script)], re.findall(r"^(?:import|from) .*\b(torch|transformers|mlx\.core)\b",
                                        code, re.M))
    if printed:
        assert out == printed


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
