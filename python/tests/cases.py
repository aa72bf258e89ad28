# SPDX-License-Identifier: MIT
"""Random problems for the properties: MLX's own arrays, the same in numpy in some awkward layout,
and the product of the dequantised weights in double precision."""

import numpy as np
from hypothesis import strategies as st

MODES = ["affine", "affine", "mxfp4", "mxfp8", "nvfp4"]
EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
LAYOUTS = ["dense", "readonly", "rows", "reversed", "transposed", "columns", "fortran"]


def sized(mode, draw):
    if mode == "affine":
        return draw(st.sampled_from([32, 64, 128])), draw(st.sampled_from([1, 2, 3, 4, 5, 6, 8]))
    return {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}[mode]


def laid(a, layout):
    """The same values in another memory layout."""
    if layout == "readonly":
        a = a.copy()
        a.flags.writeable = False
        return a
    if layout == "fortran":
        return np.asfortranarray(a)
    if a.ndim < 2 or layout == "dense":
        return a
    if layout == "rows":  # every second row of something larger
        wide = np.zeros(a.shape[:-2] + (a.shape[-2] * 2, a.shape[-1] + 3), a.dtype)
        part = wide[..., ::2, : a.shape[-1]]
    elif layout == "reversed":
        part = np.zeros_like(a)[..., ::-1, :]
    elif layout == "columns":  # last axis backwards
        part = np.zeros_like(a)[..., ::-1]
    else:
        part = np.zeros(a.shape[:-2] + (a.shape[-1], a.shape[-2]), a.dtype).swapaxes(-1, -2)
    part[...] = a
    return part


@st.composite
def problems(draw, gather=False):
    """Everything but the arrays' values, which come from the seed."""
    mode = draw(st.sampled_from(MODES))
    group, bits = sized(mode, draw)
    transpose = draw(st.booleans())
    along = group * draw(st.integers(1, 3))
    if along % 32:
        along *= 2
    across = draw(st.integers(1, 40))
    k, n = (along, across) if transpose else (across, along)
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    p = dict(mode=mode, group=group, bits=bits, transpose=transpose, k=k, n=n,
             m=draw(st.integers(1, 9)), w_batch=batch, seed=draw(st.integers(0, 1000)),
             dtype=draw(st.sampled_from(["float32", "float32", "float16", "bfloat16"])),
             scale_dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
             layouts=[draw(st.sampled_from(LAYOUTS)) for _ in range(4)])
    if gather:
        p["x_batch"] = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
        p["ids"] = draw(st.sampled_from(["both", "lhs", "rhs"]))
        p["id_dtype"] = draw(st.sampled_from(["uint32", "int32", "int64", "uint8"]))
        p["shape"] = tuple(draw(st.lists(st.integers(0, 4), max_size=2)))
    else:
        keep = draw(st.booleans())
        p["x_batch"] = tuple(d if draw(st.booleans()) else 1 for d in batch) if keep else ()
        if not batch and draw(st.booleans()):
            p["x_batch"] = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    return p


def weights(mx, p):
    """(codes, scales[, biases]) of MLX, and the dequantised matrices in double."""
    rng = np.random.default_rng(p["seed"])
    rows, cols = (p["n"], p["k"]) if p["transpose"] else (p["k"], p["n"])
    w = mx.array(rng.standard_normal(p["w_batch"] + (rows, cols)).astype(np.float32))
    if p["mode"] == "affine":
        w = w.astype(getattr(mx, p["scale_dtype"]))
    parts = mx.quantize(w, group_size=p["group"], bits=p["bits"], mode=p["mode"])
    wide = [parts[0]] + [a.astype(mx.float32) if p["mode"] == "affine" else a for a in parts[1:]]
    full = mx.dequantize(*wide, group_size=p["group"], bits=p["bits"], mode=p["mode"],
                         **({} if p["mode"] == "affine" else {"dtype": mx.float32}))
    return parts, np.array(full, dtype=np.float64)


def own_weights(p):
    """The same without MLX: codes and scales of gqmm.quantize, which are MLX's bit for bit."""
    import gqmm

    rng = np.random.default_rng(p["seed"])
    rows, cols = (p["n"], p["k"]) if p["transpose"] else (p["k"], p["n"])
    w = rng.standard_normal(p["w_batch"] + (rows, cols)).astype(np.float32)
    if p["mode"] == "affine":
        w = w.astype(kind_of(p["scale_dtype"]))
    parts = gqmm.quantize(w, p["group"], p["bits"], p["mode"])
    full = gqmm.dequantize(*parts, group_size=p["group"], bits=p["bits"], mode=p["mode"],
                           dtype="float32")
    return parts, full.astype(np.float64)


def kind_of(name):
    import ml_dtypes

    return ml_dtypes.bfloat16 if name == "bfloat16" else name


def tensor(a, device="cpu", layout="dense"):
    """A torch tensor of the values of a numpy array, in some layout that torch knows."""
    import torch

    a = np.ascontiguousarray(a)
    if a.dtype.name == "bfloat16":
        t = torch.from_numpy(a.view(np.uint16).copy()).view(torch.bfloat16)
    else:
        t = torch.from_numpy(a.copy())
    t = t.to(device)
    if t.dim() < 2 or layout not in ("rows", "transposed", "fortran"):
        return t
    if layout == "rows":
        wide = torch.zeros(*t.shape[:-2], t.shape[-2] * 2, t.shape[-1] + 3, dtype=t.dtype,
                           device=device)
        part = wide[..., ::2, : t.shape[-1]]
    elif layout == "transposed":
        part = torch.zeros(*t.shape[:-2], t.shape[-1], t.shape[-2], dtype=t.dtype,
                           device=device).mT
    else:
        part = torch.zeros(*reversed(t.shape), dtype=t.dtype, device=device).permute(
            *reversed(range(t.dim())))
    part.copy_(t)
    return part


def to_numpy(mx, a):
    """An MLX array as numpy's, bfloat16 through ml_dtypes."""
    if a.dtype == mx.bfloat16:
        import ml_dtypes

        return np.array(a.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.array(a)


def activations(p):
    rng = np.random.default_rng(p["seed"] + 1)
    x = rng.standard_normal(p["x_batch"] + (p["m"], p["k"]))
    return x.astype(np.float32).astype(kind_of(p["dtype"]))


def close(y, want, terms, dtype, k, rounded=0.0):
    """Within float32 summation of the terms and one rounding of the result; NaN fails. rounded:
    what the terms themselves were rounded to."""
    bound = (2 * (k + 4) * 2.0**-24 + rounded) * terms + EPS[dtype] * np.abs(want) + 1e-30
    return bool((np.abs(y.astype(np.float64) - want) <= bound).all())
