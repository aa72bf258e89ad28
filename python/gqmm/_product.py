# SPDX-License-Identifier: MIT
"""quantized_matmul and gather_qmm, with MLX's arguments.

A call is planned once for each combination of shapes, strides and dtypes; the plan is a descriptor
of the C library in which only addresses change. A call of a known kind is then: the addresses, one
look-up, an empty result, four stores, the C call.
"""

from __future__ import annotations

import ctypes as C
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from . import _abi
from ._context import Context, default_context
from ._frames import _frames, View, frame_of, one_stride, promote, view
from ._modes import mlx_matrix
from ._weights import Weights, make_handle

_gather = _abi.lib.gqmm_gather_qmm
_dense = _abi.lib.gqmm_qmm
_MAX_PLANS = 4096


class Plan:
    """One kind of call: the result's shape and dtype, the descriptor, what it points at."""

    frame: Any
    shape: Tuple[int, ...]
    dtype: Any
    desc: Any
    at: int
    run: Any
    keep: List[Any]
    __slots__ = ("shape", "dtype", "frame", "desc", "at", "run", "lhs", "rhs", "keep", "handle",
                 "once")

    def __init__(self) -> None:
        self.handle = 0  # of weights that were plain arrays
        self.lhs = self.rhs = False  # whether the address is the caller's
        self.once = False  # it points at copies of this call's arrays

    def __del__(self, _destroy: Any = _abi.lib.gqmm_weights_destroy) -> None:
        if self.handle:  # (a module's names may be gone when Python ends)
            _destroy(self.handle)


class Ids:
    """One index argument, flattened to (address, stride in int32), or the identity."""

    def __init__(self, at: int, stride: int, keep: Any):
        self.at, self.stride, self.keep = at, stride, keep


def _words(v: View) -> Optional[Tuple[Tuple[int, ...], int]]:
    """Strides of ids in int32 words and how many words one id has; None: must be converted.
    Of 64-bit ids the low half is read, which is the cast to 32 bits that MLX does."""
    if v.dtype in ("int32", "uint32", "int64", "uint64") and v.at % 4 == 0:
        return tuple(s // 4 for s in v.strides), v.itemsize // 4
    return None


def _given_ids(v: View, out: Tuple[int, ...]) -> Optional[Ids]:
    """The ids where they lie, if strides can say it."""
    words = _words(v)
    if words is None:
        return None
    if v.size == 1:
        return Ids(v.at, -1, v.owner)
    if v.shape != out:
        return None
    stride = one_stride(v.shape, words[0])
    if stride is None or stride < 1:
        return None
    return Ids(v.at, stride, v.owner)


def _spread_ids(v: View, out: Tuple[int, ...]) -> Ids:
    """The ids copied, broadcast and dense."""
    if v.device is not None:
        torch = frame_of(v.owner).torch  # type: ignore[attr-defined]
        t = v.owner.to(torch.int32).expand(out).contiguous()
        return Ids(t.data_ptr(), 1, t)
    dense = np.ascontiguousarray(np.broadcast_to(v.numpy().astype(np.int32), out))
    return Ids(dense.ctypes.data, 1, dense)


def _default_ids(batch: Tuple[int, ...], out: Tuple[int, ...]) -> Optional[Ids]:
    """arange over the batch, broadcast; None where that is 0, 1, 2, ..."""
    if batch == out or np.prod(batch, dtype=np.int64) == np.prod(out, dtype=np.int64):
        return None
    n = int(np.prod(batch, dtype=np.int64))
    ids: np.ndarray = np.arange(n, dtype=np.int32).reshape(batch)
    if n == 1:
        ids = ids.reshape(1)
        return Ids(ids.ctypes.data, -1, ids)
    dense = np.ascontiguousarray(np.broadcast_to(ids, out))
    return Ids(dense.ctypes.data, 1, dense)


def _check_ids(tag: str, name: str, v: View) -> None:
    if v.dtype not in _INTS:
        raise ValueError(f"[{tag}] {name} must be integers, got {v.dtype}")


_INTS = ("int32", "int64", "uint32", "uint64", "int8", "uint8", "int16", "uint16")


def _broadcast(tag: str, a: Tuple[int, ...], b: Tuple[int, ...], what: str) -> Tuple[int, ...]:
    try:
        return tuple(np.broadcast_shapes(a, b))
    except ValueError:
        raise ValueError(f"[{tag}] {what} of shapes {a} and {b} do not broadcast") from None


class _Activations:
    """x as matrices of rows, in elements; `fits` is False where a copy must be computed with."""

    def __init__(self, v: View):
        size = v.itemsize
        shape = v.shape if len(v.shape) > 1 else (1,) + v.shape
        strides = v.strides if len(v.shape) > 1 else (0,) + v.strides
        self.batch, self.m, self.k = shape[:-2], shape[-2], shape[-1]
        self.n = 1
        for d in self.batch:
            self.n *= d
        row, mat = strides[-2], one_stride(shape[:-2], strides[:-2])
        self.fits = (v.at % size == 0 and mat is not None
                     and (self.k <= 1 or strides[-1] == size)
                     and (self.m <= 1 or (row >= 0 and row % size == 0))
                     and (self.n <= 1 or (mat >= 0 and mat % size == 0)))
        if self.fits:
            self.row = (row // size or -1) if self.m > 1 else 0
            self.mat = (mat // size or -1) if self.n > 1 else 0  # type: ignore[operator]
            # All rows at one stride: a dense product needs no ids.
            flat = one_stride(shape[:-1], strides[:-1])
            self.flat = None if flat is None or flat < 0 or flat % size else flat // size or -1
            if self.n * self.m <= 1:
                self.flat = 0


def _problem(tag: str, x: View, batch: Tuple[int, ...], rows: int, cols: int,
             transpose: bool) -> Tuple[int, int]:
    """(K, N). ValueError where x and the weights do not fit."""
    k, n = (cols, rows) if transpose else (rows, cols)
    if not x.shape or x.shape[-1] != k:
        w = batch + (rows, cols)
        raise ValueError(f"[{tag}] x of shape {x.shape} has rows of "
                         f"{x.shape[-1] if x.shape else 'no'} elements, but the weights "
                         f"{w} take {k} with transpose={transpose}")
    return k, n


def _result_type(tag: str, x: View, types: Sequence[str]) -> str:
    try:
        return promote(x.dtype, *types)
    except ValueError:
        raise ValueError(f"[{tag}] x is {x.dtype}; float32, float16 and bfloat16 are computed "
                         "with") from None


def _plan(tag: str, x: Any, xv: View, w: Any, lhs: Any, rhs: Any, gather: bool, transpose: bool,
          sorted_ids: bool, precision: str, context: Context) -> Tuple[Plan, Optional[Any]]:
    """The plan of a call and, where x must be copied, its copy. w is Weights or a Matrix."""
    matrix = w._matrix if isinstance(w, Weights) else w
    k, n = _problem(tag, xv, matrix.batch, matrix.rows, matrix.cols, transpose)
    name = _result_type(tag, xv, matrix.types)
    if precision not in _abi.PRECISIONS:
        raise ValueError(f"[{tag}] precision '{precision}' is none of exact, int8")
    if xv.device != matrix.device:
        raise ValueError(f"[{tag}] x lies on {xv.device or 'cpu'}, the weights on "
                         f"{matrix.device or 'cpu'}")
    frame = frame_of(x)
    a = _Activations(xv)
    if xv.dtype not in _abi.TYPES or not a.fits:
        x = frame.dense(x, xv.dtype if xv.dtype in _abi.TYPES else name)
        xv = view(x)
        a, copy = _Activations(xv), x
    else:
        copy = None
    p = Plan()
    p.frame = frame
    experts = 1
    for d in matrix.batch:
        experts *= d
    if gather:
        out, left, right = _gather_ids(tag, xv, a, matrix.batch, lhs, rhs, p)
    else:
        out, left, right = _batch_ids(tag, xv, a, matrix.batch, experts)
    if len(xv.shape) == 1:
        p.shape = (n,)
    else:
        p.shape = out + (a.m, n)
    p.dtype = p.frame.dtype(name)
    if 0 in p.shape or k == 0:
        p.desc = None
        return p, copy
    handle = w._handle if isinstance(w, Weights) else make_handle(context, matrix)
    if not isinstance(w, Weights):
        p.handle = handle
    p.keep = [i.keep for i, given in ((left, p.lhs), (right, p.rhs)) if i and not given]
    _describe(p, a, xv, name, handle, transpose, sorted_ids, precision, left, right,
              gather or experts > 1)
    return p, copy


def _describe(p: Plan, a: _Activations, xv: View, name: str, handle: int, transpose: bool,
              sorted_ids: bool, precision: str, left: Optional[Ids], right: Optional[Ids],
              gather: bool) -> None:
    exact = _abi.PRECISIONS[precision]
    types = {"x_type": _abi.TYPES[xv.dtype], "y_type": _abi.TYPES[name]}
    pairs = 1
    for d in p.shape[:-2]:
        pairs *= d
    if not gather and left is None and a.flat is not None:
        p.desc = _abi.new("gqmm_dense", precision=exact, w=handle, transpose=int(transpose),
                          m=a.n * a.m, x_row_stride=a.flat, **types)
        p.run = _dense
    else:
        p.desc = _abi.new("gqmm_gather", precision=exact, w=handle, transpose=int(transpose),
                          sorted=int(sorted_ids), n_pairs=pairs, m=a.m, n_x=a.n,
                          x_row_stride=a.row, x_mat_stride=a.mat, **types)
        if not gather:  # one matrix for all
            right = Ids(_ZERO.ctypes.data, -1, _ZERO)
        if left is not None:
            p.desc.lhs, p.desc.lhs_stride = left.at, left.stride
        if right is not None:
            p.desc.rhs, p.desc.rhs_stride = right.at, right.stride
        p.run = _gather
    p.at = C.addressof(p.desc)


_ZERO = np.zeros(1, np.int32)


def _batch_ids(tag: str, xv: View, a: _Activations, batch: Tuple[int, ...],
               experts: int) -> Tuple[Tuple[int, ...], Optional[Ids], Optional[Ids]]:
    """quantized_matmul: the batches of x and w broadcast against each other."""
    if len(xv.shape) > 2 and batch:
        out = _broadcast(tag, a.batch, batch, "batches of x and w")
    else:
        out = a.batch
        if experts != 1:
            raise ValueError(f"[{tag}] x of shape {xv.shape} has no batch for the {batch} "
                             "matrices of w; gather_qmm chooses among them")
    return out, _default_ids(a.batch, out), _default_ids(batch, out) if experts > 1 else None


def _gather_ids(tag: str, xv: View, a: _Activations, batch: Tuple[int, ...], lhs: Any, rhs: Any,
                p: Plan) -> Tuple[Tuple[int, ...], Optional[Ids], Optional[Ids]]:
    """gather_qmm: given ids, or all of a batch in order; the two broadcast."""
    if len(xv.shape) < 2:
        raise ValueError(f"[{tag}] x must have at least 2 dimensions, got shape {xv.shape}")
    lv = None if lhs is None else view(lhs)
    rv = None if rhs is None else view(rhs)
    for name, v in (("lhs_indices", lv), ("rhs_indices", rv)):
        if v is not None:
            _check_ids(tag, name, v)
            if v.device != xv.device:
                raise ValueError(f"[{tag}] {name} must lie on {xv.device or 'cpu'}")
    out = _broadcast(tag, a.batch if lv is None else lv.shape, batch if rv is None else rv.shape,
                     "lhs_indices and rhs_indices")
    both: List[Optional[Ids]] = []
    for side, v, n in (("lhs", lv, a.batch), ("rhs", rv, batch)):
        if v is None:
            ids = _default_ids(n, out)
            if ids is not None and xv.device is not None:
                ids = _spread_ids(view(_to_device(xv, ids.keep)), out)
        elif 0 in out:
            ids = None
        else:
            ids = _given_ids(v, out)
            if ids is not None:
                setattr(p, side, True)
            else:
                ids = _spread_ids(v, out)
                p.once = True
        both.append(ids)
    return out, both[0], both[1]


def _run(p: Plan, context: Context, like: Any, x: int, lhs: int, rhs: int) -> Any:
    frame = p.frame
    y, at = frame.empty(p.shape, p.dtype, context._device, like)
    d = p.desc
    if d is None:
        y[...] = 0
        return frame.finish(y)
    with context._lock:
        if context._device:
            context._use_stream_of(frame)
        d.x = x
        d.y = at
        if p.lhs:
            d.lhs = lhs
        if p.rhs:
            d.rhs = rhs
        if p.run(context._handle, p.at, context._error_at):
            raise _abi.error_of(context._error)
    return frame.finish(y)


def refuse_grad(tag: str, frame: Any) -> None:
    """x requires grad: that is refused where gradients are recorded."""
    if frame.grad_enabled():
        raise RuntimeError(f"[{tag}] x requires grad, and quantised products have no backward: "
                           "call under torch.no_grad() or with x.detach()")


def _first(tag: str, key: Any, x: Any, fx: Any, w: Any, scales: Any, biases: Any, lhs: Any,
           rhs: Any, gather: bool, transpose: bool, group_size: Optional[int],
           bits: Optional[int], mode: str, global_scale: Any, sorted_ids: bool, precision: str,
           context: Context) -> Any:
    """A call of a kind that has no plan yet: all checks, then the plan is kept if it can be."""
    matrix: Any
    if isinstance(w, Weights):
        if scales is not None or biases is not None or global_scale is not None:
            raise TypeError(f"[{tag}] Weights carry their scales: pass none, and no biases")
        matrix, plans = w, w._plans
    else:
        if scales is None:
            raise TypeError(f"[{tag}] scales are missing: w is an array, not gqmm.Weights")
        matrix = mlx_matrix(tag, w, scales, biases, group_size, bits, mode, global_scale)
        plans = context._plans
    plan, copy = _plan(tag, x, fx.view(x), matrix, lhs, rhs, gather, transpose, sorted_ids,
                       precision, context)
    copied = copy is not None or plan.once or getattr(matrix, "copied", False)
    if copied or global_scale is not None:
        source = fx.view(x) if copy is None else view(copy)
    else:
        source = fx.view(x)
        if len(plans) >= _MAX_PLANS:
            plans.clear()
        plans[key] = plan
    lv = view(lhs) if plan.lhs else None
    rv = view(rhs) if plan.rhs else None
    y = _run(plan, context, x, source.at, lv.at if lv else 0, rv.at if rv else 0)
    del matrix, source, lv, rv  # alive until here: copies that the call has read
    return y


def quantized_matmul(x: Any, w: Any, /, scales: Any = None, biases: Any = None,
                     transpose: bool = True, group_size: Optional[int] = None,
                     bits: Optional[int] = None, mode: str = "affine", *, stream: Any = None,
                     precision: str = "exact", context: Optional[Context] = None) -> Any:
    """x @ w.T (transpose=True) or x @ w with quantised w, as mlx.core.quantized_matmul.

    x       float32, float16 or bfloat16 [..., M, K] or [K]
    w       uint32 codes [..., N, K*bits/32]; with transpose=False [..., K, N*bits/32].
            Or gqmm.Weights of any format, without scales and biases
    scales, biases  [..., N, K/group_size] (or [..., K, N/group_size]): float for mode "affine",
            uint8 and no biases for "mxfp4", "mxfp8", "nvfp4"
    result  [..., M, N], batches of x and w broadcast; its dtype is that of x, scales and biases
            promoted ("affine"), or that of x; its kind is that of x

    precision  "exact": float activations, float32 sums, one rounding at the end.
               "int8": activations rounded to 8 bits in blocks of 32, faster
    stream     taken for MLX's sake and not used

    Nothing is copied, except: x whose last axis is not dense, whose batch has no single stride or
    goes backwards, or of an integer dtype; w whose rows are not dense or whose batch has no single
    stride; scales and biases of unlike dtypes. Results for MLX arrays are copied once.
    Raises ValueError for shapes and dtypes that do not fit, TypeError for what is no array.
    """
    fx = _frames.get(type(x)) or frame_of(x)
    xr = fx.raw(x)
    if type(w) is Weights:
        key: Any = (xr[0] & 3, xr[1], xr[2], xr[3], transpose, precision, context)
        found = w._plans.get(key)
        ctx = context or default_context(xr[4])
    else:
        ctx = context or default_context(xr[4])
        wk = (_frames.get(type(w)) or frame_of(w)).key(w)
        key = (xr[0] & 3, xr[1], xr[2], xr[3], *wk, transpose, group_size, bits, mode, precision)
        if scales is not None:
            key += (_frames.get(type(scales)) or frame_of(scales)).key(scales)
        if biases is not None:
            key += (_frames.get(type(biases)) or frame_of(biases)).key(biases)
        found = ctx._plans.get(key)
    if fx.grad is not None and fx.grad(x):
        refuse_grad("quantized_matmul", fx)
    if found is not None and found.frame is fx:
        return _run(found, ctx, x, xr[0], 0, 0)
    return _first("quantized_matmul", key, x, fx, w, scales, biases, None, None, False, transpose,
                  group_size, bits, mode, None, False, precision, ctx)


def gather_qmm(x: Any, w: Any, /, scales: Any = None, biases: Any = None, lhs_indices: Any = None,
               rhs_indices: Any = None, transpose: bool = True, group_size: Optional[int] = None,
               bits: Optional[int] = None, mode: str = "affine", global_scale: Any = None, *,
               sorted_indices: bool = False, stream: Any = None, precision: str = "exact",
               context: Optional[Context] = None) -> Any:
    """Products of chosen pairs, as mlx.core.gather_qmm: y[i] = x[lhs[i]] @ w[rhs[i]].T.

    x, w, scales, biases, transpose, group_size, bits, mode, precision: see quantized_matmul
    lhs_indices, rhs_indices  integers, flat over all but the last two dimensions of x and of w
            (experts); one left out is 0, 1, 2, ... in the shape of these dimensions. The two are
            broadcast against each other. -1 gives zeros; other ids outside raise RangeError
    global_scale  mode "nvfp4": float32, one number or one for each expert
    sorted_indices  a hint that changes no result
    result  [*broadcast ids, M, N]

    32-bit ids are read in place, of 64-bit ids the low halves; other integers, ids that must be
    broadcast and ids that go backwards are copied. With neither ids it is quantized_matmul.
    """
    key: Any
    gather = lhs_indices is not None or rhs_indices is not None
    fx = _frames.get(type(x)) or frame_of(x)
    xr = fx.raw(x)
    lr = rr = _NO_IDS
    if lhs_indices is not None:
        lr = (_frames.get(type(lhs_indices)) or frame_of(lhs_indices)).raw(lhs_indices)
    if rhs_indices is not None:
        rr = (_frames.get(type(rhs_indices)) or frame_of(rhs_indices)).raw(rhs_indices)
    if type(w) is Weights:
        key = ((xr[0] | lr[0] | rr[0]) & 3, xr[1], xr[2], xr[3], lr[1], lr[2], lr[3], rr[1], rr[2],
               rr[3], transpose, sorted_indices, precision, context)
        found = w._plans.get(key)
        ctx = context or default_context(xr[4])
    else:
        ctx = context or default_context(xr[4])
        wk = (_frames.get(type(w)) or frame_of(w)).key(w)
        key = ((xr[0] | lr[0] | rr[0]) & 3, xr[1], xr[2], xr[3], lr[1], lr[2], lr[3], rr[1], rr[2],
               rr[3], *wk, transpose, group_size, bits, mode, sorted_indices, precision)
        if scales is not None:
            key += (_frames.get(type(scales)) or frame_of(scales)).key(scales)
        if biases is not None:
            key += (_frames.get(type(biases)) or frame_of(biases)).key(biases)
        found = ctx._plans.get(key) if global_scale is None else None
    if fx.grad is not None and fx.grad(x):
        refuse_grad("gather_qmm", fx)
    if found is not None and found.frame is fx:
        return _run(found, ctx, x, xr[0], lr[0], rr[0])
    return _first("gather_qmm", key, x, fx, w, scales, biases, lhs_indices, rhs_indices, gather,
                  transpose, group_size, bits, mode, global_scale, sorted_indices, precision, ctx)


_NO_IDS: Any = (0, None, None, None, None, None)


def _to_device(xv: View, ids: np.ndarray) -> Any:
    frame: Any = frame_of(xv.owner)
    return frame.torch.from_numpy(ids).to(xv.owner.device)
