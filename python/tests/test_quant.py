# SPDX-License-Identifier: MIT
"""quantize: MLX's codes bit for bit. dequantize: its values."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import gqmm

from cases import LAYOUTS, MODES, laid, sized, to_numpy


@st.composite
def matrices(draw):
    mode = draw(st.sampled_from(MODES))
    group, bits = sized(mode, draw)
    cols = group * draw(st.integers(1, 4))
    rows = draw(st.integers(1, 9)) * (2 if cols % 32 else 1)  # MLX wants 32 elements in all
    return (mode, group, bits, tuple(draw(st.lists(st.integers(1, 3), max_size=2))) + (rows, cols),
            draw(st.sampled_from(["float32", "float16", "bfloat16"])),
            draw(st.sampled_from(LAYOUTS)), draw(st.integers(0, 99)))


@given(matrices())
def test_quantize_is_mlx(case):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

    mode, group, bits, shape, dtype, layout, seed = case
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    w = np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(kind)
    how = dict(group_size=group, bits=bits, mode=mode)
    want = [to_numpy(mx, a) for a in mx.quantize(mx.array(w), **how)]
    got = gqmm.quantize(laid(w, layout), **how)
    assert isinstance(got, tuple) and len(got) == len(want)
    for a, b in zip(got, want):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    back = to_numpy(mx, mx.dequantize(*map(mx.array, want), **how))
    ours = gqmm.dequantize(*[laid(a, layout) for a in got], **how)
    assert ours.dtype == back.dtype and ours.shape == back.shape
    # MLX rounds product and sum of 16-bit scales one by one, we once.
    slack = {"float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}[ours.dtype.name]
    assert np.allclose(ours.astype(np.float32), back.astype(np.float32), atol=slack, rtol=slack)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dequantize_to(rng, dtype):
    q = gqmm.quantize(rng.standard_normal((4, 64)).astype(np.float16))
    y = gqmm.dequantize(*q, dtype=dtype)
    assert y.dtype.name == dtype
    assert np.allclose(y.astype(np.float32), gqmm.dequantize(*q, dtype=np.float32), atol=2e-2)


def test_no_rows():
    q = gqmm.quantize(np.zeros((0, 64), np.float32))
    assert [a.shape for a in q] == [(0, 8), (0, 1), (0, 1)]
    assert gqmm.dequantize(*q).shape == (0, 64)


def test_one_bit_is_kept_as_two(rng):
    """Codes of one bit are no format of the C library."""
    w = rng.standard_normal((4, 64)).astype(np.float32)
    q = gqmm.quantize(w, bits=1)
    made = gqmm.Weights.from_mlx(*q, bits=1)
    assert made.format == "affine2_g64_f32" and made.bits_per_weight == 3
    assert np.array_equal(made.dequantize(), gqmm.dequantize(*q, bits=1))
    assert len(np.unique(made.dequantize()[0])) == 2
    with pytest.raises(ValueError, match="1, 2, 3, 4, 5, 6 and 8"):
        gqmm.quantize(w, bits=7)
