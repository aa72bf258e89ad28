# SPDX-License-Identifier: MIT
"""quantized_matmul and gather_qmm against MLX: shapes and dtypes are its, values those of its
dequantised weights in double precision; in float32 also near its own product."""

import numpy as np
import pytest
from hypothesis import given, settings

import gqmm

from cases import activations, close, laid, problems, to_numpy, weights


def promoted(p):
    if p["mode"] != "affine" or p["dtype"] == p["scale_dtype"]:
        return p["dtype"]
    return "float32"


def prepared(mx, p):
    """(MLX's x, MLX's parts, numpy's x and parts in their layouts, w in double)."""
    parts, full = weights(mx, p)
    x = activations(p)
    ours = [laid(to_numpy(mx, a), how) for a, how in zip(parts, p["layouts"][1:])]
    return mx.array(x), parts, laid(x, p["layouts"][0]), ours, full


@settings(max_examples=200)
@given(problems())
def test_quantized_matmul_is_mlx(p):
    mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

    xm, parts, x, ours, full = prepared(mx, p)
    how = dict(transpose=p["transpose"], group_size=p["group"], bits=p["bits"], mode=p["mode"])
    if not p["x_batch"] and np.prod(p["w_batch"]) != 1:
        with pytest.raises(ValueError, match="has no batch"):
            gqmm.quantized_matmul(x, *ours, **how)
        return
    want = mx.quantized_matmul(xm, *parts, **how)
    for _ in range(2):  # the first call plans, the second follows the plan
        y = gqmm.quantized_matmul(x, *ours, **how)
    assert y.shape == want.shape
    assert str(want.dtype).split(".")[-1] == y.dtype.name == promoted(p)
    w = full.swapaxes(-1, -2) if p["transpose"] else full
    double = np.asarray(x, np.float64) @ w
    terms = np.abs(np.asarray(x, np.float64)) @ np.abs(w)
    # affine weights are scale * q + bias: the parts may be larger than their sum
    slack = terms + np.abs(np.asarray(x, np.float64)).sum(-1, keepdims=True) * np.abs(w).max() * 8
    assert close(y.reshape(double.shape), double, slack, y.dtype.name, p["k"])
    if y.dtype == np.float32:
        # A product of a batch of one and a matrix with one, where MLX and numpy agree on shapes
        assert np.allclose(y, np.array(want), atol=1e-3, rtol=1e-4)


@settings(max_examples=300)
@given(problems(gather=True))
def test_gather_qmm_is_mlx(p):
    mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

    xm, parts, x, ours, full = prepared(mx, p)
    rng = np.random.default_rng(p["seed"] + 2)
    n_x, n_w = int(np.prod(p["x_batch"])), int(np.prod(p["w_batch"]))
    lhs = rng.integers(0, n_x, p["shape"]).astype(p["id_dtype"])
    rhs = rng.integers(0, n_w, p["shape"]).astype(p["id_dtype"])
    # A missing side has the shape of the batch: one that broadcasts with it is drawn.
    if p["ids"] == "lhs":
        lhs = rng.integers(0, n_x, (2,) + p["w_batch"]).astype(p["id_dtype"])
    if p["ids"] == "rhs":
        rhs = rng.integers(0, n_w, p["x_batch"][:-1] + (1,)).astype(p["id_dtype"])
    ids = dict(lhs_indices=lhs if p["ids"] != "rhs" else None,
               rhs_indices=rhs if p["ids"] != "lhs" else None)
    how = dict(transpose=p["transpose"], group_size=p["group"], bits=p["bits"], mode=p["mode"])
    want = mx.gather_qmm(xm, *parts, **how, **{
        k: None if v is None else mx.array(v) for k, v in ids.items()})
    for _ in range(2):
        y = gqmm.gather_qmm(x, *ours, **how, **ids)
    assert y.shape == want.shape and y.dtype.name == promoted(p)
    left = np.arange(n_x).reshape(p["x_batch"]) if ids["lhs_indices"] is None else lhs
    right = np.arange(n_w).reshape(p["w_batch"]) if ids["rhs_indices"] is None else rhs
    left, right = np.broadcast_arrays(left.astype(int), right.astype(int))
    w = full.swapaxes(-1, -2) if p["transpose"] else full
    w = w.reshape((-1,) + w.shape[-2:])[right]
    a = np.asarray(x, np.float64).reshape((-1, p["m"], p["k"]))[left]
    slack = np.abs(a) @ np.abs(w) + np.abs(a).sum(-1, keepdims=True) * np.abs(full).max() * 8
    assert close(y, a @ w, slack, y.dtype.name, p["k"])


@pytest.mark.parametrize("shape", [(0, 64), (3, 0, 64), (0, 3, 64)])
def test_zero_sizes(rng, shape):
    """MLX (0.32.4, CPU) divides by zero here and ends the process: the shape is what it infers."""
    q = gqmm.quantize(rng.standard_normal((8, 64)).astype(np.float32))
    y = gqmm.quantized_matmul(np.zeros(shape, np.float32), *q)
    assert y.shape == shape[:-1] + (8,) and y.dtype == np.float32


def test_one_dimension(mx, rng):
    q = gqmm.quantize(rng.standard_normal((8, 64)).astype(np.float32))
    x = rng.standard_normal(64).astype(np.float32)
    y = gqmm.quantized_matmul(x, *q)
    want = mx.quantized_matmul(mx.array(x), *map(mx.array, q))
    assert y.shape == want.shape and np.allclose(y, np.array(want), atol=1e-4)


def test_no_pairs_and_skipped_pairs(rng):
    q = gqmm.quantize(rng.standard_normal((4, 8, 64)).astype(np.float32))
    x = rng.standard_normal((5, 1, 64)).astype(np.float32)
    assert gqmm.gather_qmm(x, *q, rhs_indices=np.zeros((0, 5), np.int32)).shape == (0, 5, 1, 8)
    y = gqmm.gather_qmm(x, *q, rhs_indices=np.array([0, -1, 2, -1, 3]))
    assert not y[1].any() and not y[3].any() and y[0].any()
    again = gqmm.gather_qmm(x, *q, rhs_indices=np.array([0, 1, 2, 1, 3]))
    assert (again[[0, 2, 4]] == y[[0, 2, 4]]).all()


def test_broadcast_memory(rng):
    """Strides of zero: one row for all, one matrix for all, one id for all."""
    w = rng.standard_normal((4, 8, 64)).astype(np.float32)
    q = gqmm.quantize(w)
    x = np.broadcast_to(rng.standard_normal(64).astype(np.float32), (3, 2, 64))
    ids = np.broadcast_to(np.int32(2), (3,))
    y = gqmm.gather_qmm(x, *q, rhs_indices=ids)
    assert (y == y[0, 0]).all()
    assert (y == gqmm.gather_qmm(x.copy(), *q, rhs_indices=ids.copy())).all()
    same = [np.broadcast_to(a[:1], a.shape) for a in q]
    assert (gqmm.gather_qmm(x, *same, rhs_indices=ids) ==
            gqmm.gather_qmm(x, *q, rhs_indices=np.zeros(3, int))).all()


def test_sliced_experts_in_place(rng):
    q = gqmm.quantize(rng.standard_normal((8, 16, 64)).astype(np.float32))
    x = rng.standard_normal((6, 1, 64)).astype(np.float32)
    ids = np.array([0, 1, 2, 3, 0, 1])
    for part in (np.s_[::2], np.s_[4:], np.s_[::-2], np.s_[:4, 3:9], np.s_[:4, ::-1]):
        views = [a[part] for a in q]
        want = gqmm.gather_qmm(x, *[a.copy() for a in views], rhs_indices=ids)
        assert (gqmm.gather_qmm(x, *views, rhs_indices=ids) == want).all()
        assert gqmm.Weights.from_mlx(*views)._matrix.copied is False


def test_memory_that_changed_is_read_again(rng):
    """A plan holds no values and no addresses that the next call does not check."""
    w = rng.standard_normal((2, 8, 64)).astype(np.float32)
    q, x = gqmm.quantize(w), rng.standard_normal((1, 64)).astype(np.float32)
    first = gqmm.quantized_matmul(x, *[a[:1] for a in q])
    q[1][:1] *= 2
    q[2][:1] *= 2
    assert np.allclose(gqmm.quantized_matmul(x, *[a[:1] for a in q]), 2 * first, rtol=1e-5)
    assert not np.allclose(gqmm.quantized_matmul(x, *[a[1:] for a in q]), first)


def test_int8_is_near(rng):
    q = gqmm.quantize(rng.standard_normal((32, 512)).astype(np.float32))
    x = rng.standard_normal((5, 512)).astype(np.float32)
    exact, fast = (gqmm.quantized_matmul(x, *q, precision=p) for p in ("exact", "int8"))
    assert 0 < ((exact - fast) ** 2).sum() / (exact**2).sum() < 1e-4


def test_global_scale(mx, rng):
    w = rng.standard_normal((3, 8, 64)).astype(np.float32)
    amax = np.abs(w).max()
    q = gqmm.quantize(w, mode="nvfp4", global_scale=amax)
    want = mx.dequantize(*map(mx.array, q), mode="nvfp4", global_scale=mx.array(amax),
                         dtype=mx.float32)
    got = gqmm.dequantize(*q, mode="nvfp4", global_scale=amax, dtype="float32")
    assert np.allclose(got, np.array(want), rtol=1e-5)
    x = rng.standard_normal((3, 1, 64)).astype(np.float32)
    y = gqmm.gather_qmm(x, *q, rhs_indices=np.arange(3), mode="nvfp4",
                        global_scale=np.full(3, amax, np.float32))
    assert np.allclose(y, x @ got.swapaxes(1, 2), atol=1e-4)


def errors():
    """(name, what to call, MLX's exception): each is an error of MLX too."""
    w = np.random.default_rng(0).standard_normal((2, 8, 64)).astype(np.float32)
    q, s, b = gqmm.quantize(w)
    x = np.zeros((2, 3, 64), np.float32)
    ids = np.zeros(2, np.int32)
    qmm, gather, f4 = "quantized_matmul", "gather_qmm", dict(mode="mxfp4")
    return [
        ("mode", qmm, (x, q, s, b), dict(mode="xyz")),
        ("bits", qmm, (x, q, s, b), dict(bits=3)),
        ("group", qmm, (x, q, s, b), dict(group_size=32)),
        ("no biases", qmm, (x, q, s), {}),
        ("biases of fp4", qmm, (x, q, np.zeros((2, 8, 2), np.uint8), b), f4),
        ("scale type", qmm, (x, q, s), f4),
        ("codes type", qmm, (x, q.astype(np.int64), s, b), {}),
        ("inner size", qmm, (x[..., :32], q, s, b), {}),
        ("not transposed", qmm, (x, q, s, b, False), {}),
        ("biases shape", qmm, (x, q, s, b[:, :4]), {}),
        ("batches", qmm, (np.zeros((3, 1, 64), np.float32), q, s, b), {}),
        ("float ids", gather, (x, q, s, b), dict(rhs_indices=ids.astype(np.float32))),
        ("shapes of ids", gather, (x, q, s, b), dict(lhs_indices=np.zeros(3, int),
                                                     rhs_indices=np.zeros(2, int))),
        ("x is a vector", gather, (x[0, 0], q, s, b), dict(rhs_indices=ids)),
        ("no array", qmm, ("x", q, s, b), {}),
        ("quantise integers", "quantize", (np.zeros((8, 64), np.int32),), {}),
        ("quantise a vector", "quantize", (w[0, 0],), {}),
        ("quantise odd rows", "quantize", (w[..., :50],), {}),
        ("quantise 7 bits", "quantize", (w,), dict(bits=7)),
        ("quantise in 33", "quantize", (w,), dict(group_size=33)),
        ("fp4 of 3 bits", "quantize", (w,), dict(mode="mxfp4", bits=3)),
        ("fp4 in 64", "quantize", (w,), dict(mode="nvfp4", group_size=64)),
        ("scale of mxfp4", "quantize", (w,), dict(mode="mxfp4", global_scale=np.float32(1))),
        ("dequantise a vector", "dequantize", (q[0, 0], s[0, 0], b[0, 0]), {}),
        ("dequantise floats", "dequantize", (w, s, b), {}),
        ("dequantise, shapes", "dequantize", (q, s[:, :4], b[:, :4]), {}),
        ("to integers", "dequantize", (q, s, b), dict(dtype=np.int32)),
    ]


@pytest.mark.parametrize("name,function,arguments,options", errors(), ids=[e[0] for e in errors()])
def test_errors_are_mlx(mx, name, function, arguments, options):
    def mlx(a):
        if a is np.int32:
            return mx.int32
        return mx.array(a) if isinstance(a, (np.ndarray, np.float32)) else a

    with pytest.raises(Exception) as theirs:
        mx.eval(getattr(mx, function)(*map(mlx, arguments),
                                      **{k: mlx(v) for k, v in options.items()}))
    with pytest.raises(theirs.type) as ours:
        getattr(gqmm, function)(*arguments, **options)
    assert len(str(ours.value)) > 20


def test_too_few_scales(rng):
    """MLX (0.32.4) reads past the end of these."""
    q, s, b = gqmm.quantize(rng.standard_normal((2, 8, 64)).astype(np.float32))
    with pytest.raises(ValueError, match=r"scales must have shape \(2, 8, 1\)"):
        gqmm.quantized_matmul(np.zeros((2, 3, 64), np.float32), q, s[:, :4], b[:, :4])


def test_bad_id_names_it(rng):
    q = gqmm.quantize(rng.standard_normal((4, 8, 64)).astype(np.float32))
    x = np.zeros((3, 1, 64), np.float32)
    with pytest.raises(gqmm.RangeError, match="7") as e:
        gqmm.gather_qmm(x, *q, rhs_indices=np.array([0, 7, 1]))
    assert isinstance(e.value, IndexError) and e.value.status_name == "GQMM_E_INDEX"


def test_scales_are_required_of_arrays(rng):
    q = gqmm.quantize(rng.standard_normal((8, 64)).astype(np.float32))
    x = np.zeros((3, 64), np.float32)
    with pytest.raises(TypeError, match="scales are missing"):
        gqmm.quantized_matmul(x, q[0])
    with pytest.raises(TypeError, match="carry their scales"):
        gqmm.quantized_matmul(x, gqmm.Weights.from_mlx(*q), q[1], q[2])
