# SPDX-License-Identifier: MIT
"""gqmm.mlx_compat under mlx.core and mlx.nn: forward, gradients, transforms. MLX's own
python/tests/test_quantized.py runs too where GQMM_MLX_TESTS names its folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from gqmm import mlx_compat  # noqa: E402


@pytest.fixture(autouse=True)
def installed(capsys):
    original = mx.gather_qmm
    mlx_compat.install()
    assert "gradients" in capsys.readouterr().out
    mlx_compat.counts.clear()
    yield
    mlx_compat.uninstall()
    assert mx.gather_qmm is original


@pytest.fixture
def parts():
    mx.random.seed(0)
    return mx.random.normal((3, 64)), mx.quantize(mx.random.normal((32, 64)))


def theirs(name, *arguments, **options):
    return mlx_compat._mlx[name](*arguments, **options)


@pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
def test_gradients(parts, mode):
    x, _ = parts
    q = mx.quantize(mx.random.normal((32, 64)), mode=mode)

    def product(f):
        return lambda x: (f(x, *q, mode=mode) ** 2).sum()

    ours = mx.value_and_grad(product(mx.quantized_matmul))(x)
    want = mx.value_and_grad(product(lambda *a, **o: theirs("quantized_matmul", *a, **o)))(x)
    assert mx.allclose(ours[0], want[0], rtol=1e-4) and mx.allclose(ours[1], want[1], rtol=1e-3,
                                                                   atol=1e-3)
    assert mlx_compat.counts["quantized_matmul"] and mlx_compat.counts["gradients"]


def test_gradients_of_scales_and_twice(parts):
    x, (w, s, b) = parts

    def loss(s, x, f):
        return (f(x, w, s, b) ** 2).sum()

    mine, other = mx.quantized_matmul, mlx_compat._mlx["quantized_matmul"]
    assert mx.allclose(mx.grad(loss)(s, x, mine), mx.grad(loss)(s, x, other), rtol=1e-3, atol=1e-3)

    def slope(f):
        return lambda x: mx.grad(lambda x: loss(s, x, f))(x).sum()

    assert mx.allclose(mx.grad(slope(mine))(x), mx.grad(slope(other))(x), rtol=1e-3, atol=1e-2)


def test_dequantize_gradient(parts):
    _, (w, s, b) = parts

    def loss(s, f):
        return (f(w, s, b) ** 2).sum()

    assert mx.allclose(mx.grad(loss)(s, mx.dequantize),
                       mx.grad(loss)(s, mlx_compat._mlx["dequantize"]), rtol=1e-3)


def test_compile_and_vmap(parts):
    x, q = parts
    want = mx.quantized_matmul(x, *q)
    assert mx.allclose(mx.compile(lambda x: mx.quantized_matmul(x, *q))(x), want, atol=1e-4)
    with pytest.raises(RuntimeError, match="NYI"):  # MLX's own answer
        mx.vmap(lambda x: mx.quantized_matmul(x[None], *q)[0])(x)
    assert mlx_compat.counts["transforms"] == 2


def test_layers_of_mlx_nn(parts):
    nn = pytest.importorskip("mlx.nn")
    x, _ = parts
    layer = nn.QuantizedLinear(64, 32)
    y = layer(x)
    assert mlx_compat.counts["quantized_matmul"] == 1
    want = theirs("quantized_matmul", x, layer.weight, layer.scales, layer.biases) + layer.bias
    assert mx.allclose(y, want, atol=1e-4)


def test_one_bit_is_mlx():
    w = mx.random.normal((8, 64))
    try:
        want = theirs("quantize", w, bits=1)
    except ValueError:
        pytest.skip("this MLX has no codes of one bit")
    got = mx.quantize(w, bits=1)
    assert all(np.array_equal(np.array(a), np.array(b)) for a, b in zip(got, want))
    assert mlx_compat.counts["bits"] == 1


def test_mlx_own_tests():
    folder = os.environ.get("GQMM_MLX_TESTS")
    if not folder:
        pytest.skip("GQMM_MLX_TESTS names no checkout's python/tests")
    script = ("import gqmm.mlx_compat as c; c.install(); import unittest, test_quantized; "
              "unittest.main(module=test_quantized)")
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(folder), capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(
                              [folder, *sys.path])})
    assert done.returncode == 0, done.stderr[-4000:]
