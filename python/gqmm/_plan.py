# SPDX-License-Identifier: MIT
"""The plan of a kind of call of quantized_matmul and gather_qmm: all that is checked and derived
from shapes, strides and dtypes, as a descriptor of the C library in which addresses change."""

from __future__ import annotations

import ctypes as C
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from . import _abi
from ._context import Context
from ._frames import View, device_name, frame_of, one_stride, promote, view
from ._ids import Ids, check_ids, default_ids, given_ids, one_id, spread_ids
from ._weights import Weights, make_handle

GATHER = _abi.lib.gqmm_gather_qmm
DENSE = _abi.lib.gqmm_qmm
_MAX_PLANS = 4096


class Plan:
    """One kind of call: what makes its result, the descriptor, what that points at."""

    frame: Any
    shape: Tuple[int, ...]
    make: Any  # new results
    finish: Any  # what turns them into the package's arrays; None: they are
    desc: Any  # None: the result is all zeros
    at: int
    run: Any
    keep: List[Any]
    __slots__ = ("frame", "shape", "make", "finish", "desc", "at", "run", "lhs", "rhs", "keep",
                 "handle", "once", "copies", "scratch", "waits")

    def __init__(self) -> None:
        self.handle = 0  # of weights that were plain arrays
        self.lhs = self.rhs = False  # whether the address is the caller's
        self.once = False  # it points at copies of this call's arrays
        self.copies: Optional[str] = None  # the dtype of the copy of x that is computed with
        self.scratch: Any = None  # what makes workspaces, where one is needed
        self.waits = False  # results are handed out when they are complete
        self.keep = []

    def __del__(self, _destroy: Any = _abi.lib.gqmm_weights_destroy) -> None:
        if self.handle:  # (a module's names may be gone when Python ends)
            _destroy(self.handle)


_held: List[Any] = []  # ids of forgotten plans: captured graphs may read them


def remember(plans: Dict[Any, Any], key: Any, plan: Any) -> None:
    if len(plans) >= _MAX_PLANS:
        _held.extend(p.keep for p in plans.values() if p.keep)
        plans.clear()
    plans[key] = plan


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


def plan_of(tag: str, x: Any, xv: View, w: Any, lhs: Any, rhs: Any, gather: bool, transpose: bool,
          sorted_ids: bool, precision: str, context: Context) -> Tuple[Plan, Optional[Any]]:
    """The plan of a call and, where x must be copied, its copy. w is Weights or a Matrix."""
    matrix = w._matrix if isinstance(w, Weights) else w
    k, n = _problem(tag, xv, matrix.batch, matrix.rows, matrix.cols, transpose)
    name = _result_type(tag, xv, matrix.types)
    if precision not in _abi.PRECISIONS:
        raise ValueError(f"[{tag}] precision '{precision}' is none of exact, int8")
    if xv.device != matrix.device:
        raise ValueError(f"[{tag}] x lies on {device_name(xv.device)}, the weights on "
                         f"{device_name(matrix.device)}")
    if context._device != xv.device:
        raise ValueError(f"[{tag}] x lies on {device_name(xv.device)}, but the context is of "
                         f"{context.device}")
    frame = frame_of(x)
    a, copy = _Activations(xv), None
    p = Plan()
    p.frame, p.finish = frame, frame.finisher()
    if xv.dtype not in _abi.TYPES or not a.fits:
        p.copies = xv.dtype if xv.dtype in _abi.TYPES else name
        copy = frame.dense(x, p.copies)
        xv = view(copy)
        a = _Activations(xv)
    experts = 1
    for d in matrix.batch:
        experts *= d
    if gather:
        out, left, right = _gather_ids(tag, frame, xv, a, matrix.batch, lhs, rhs, p)
    else:
        out, left, right = _batch_ids(tag, frame, xv, a, matrix.batch, experts)
    if len(xv.shape) == 1:
        p.shape = (n,)
    else:
        p.shape = out + (a.m, n)
    p.make = frame.maker(p.shape, frame.dtype(name), xv.device)
    if 0 in p.shape or k == 0:
        p.desc = None
        return p, copy
    handle = w._handle if isinstance(w, Weights) else make_handle(context, matrix)
    if not isinstance(w, Weights):
        p.handle = handle
    _describe(p, a, xv, name, handle, transpose, sorted_ids, precision, left, right,
              gather or experts > 1)
    if xv.device is not None:
        _plan_scratch(p, xv.device, context)
    return p, copy


def _plan_scratch(p: Plan, device: int, context: Context) -> None:
    """A workspace from the allocator of x's package, so that the call allocates nothing."""
    size = C.c_size_t()
    op = _abi.OPERATIONS["QMM" if p.run is DENSE else "GATHER_QMM"]
    with context._lock:
        _abi.call("gqmm_workspace_size", context._handle, op, p.desc, C.byref(size))
    p.waits = p.frame.waits
    if size.value:
        p.scratch = p.frame.maker((size.value,), p.frame.dtype("uint8"), device)
        p.desc.workspace_bytes = size.value
    p.once = p.once or bool(p.keep and p.frame.capturing())


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
        p.run = DENSE
    else:
        p.desc = _abi.new("gqmm_gather", precision=exact, w=handle, transpose=int(transpose),
                          sorted=int(sorted_ids), n_pairs=pairs, m=a.m, n_x=a.n,
                          x_row_stride=a.row, x_mat_stride=a.mat, **types)
        if not gather:  # one matrix for all
            right = one_id(p.frame, xv.device)
        p.keep = [i.keep for i, given in ((left, p.lhs), (right, p.rhs)) if i and not given]
        if left is not None:
            p.desc.lhs, p.desc.lhs_stride = left.at, left.stride
        if right is not None:
            p.desc.rhs, p.desc.rhs_stride = right.at, right.stride
        p.run = GATHER
    p.at = C.addressof(p.desc)


def _batch_ids(tag: str, frame: Any, xv: View, a: _Activations, batch: Tuple[int, ...],
               experts: int) -> Tuple[Tuple[int, ...], Optional[Ids], Optional[Ids]]:
    """quantized_matmul: the batches of x and w broadcast against each other."""
    if len(xv.shape) > 2 and batch:
        out = _broadcast(tag, a.batch, batch, "batches of x and w")
    else:
        out = a.batch
        if experts != 1:
            raise ValueError(f"[{tag}] x of shape {xv.shape} has no batch for the {batch} "
                             "matrices of w; gather_qmm chooses among them")
    return (out, default_ids(frame, a.batch, out, xv.device),
            default_ids(frame, batch, out, xv.device) if experts > 1 else None)


def _gather_ids(tag: str, frame: Any, xv: View, a: _Activations, batch: Tuple[int, ...], lhs: Any, rhs: Any,
                p: Plan) -> Tuple[Tuple[int, ...], Optional[Ids], Optional[Ids]]:
    """gather_qmm: given ids, or all of a batch in order; the two broadcast."""
    if len(xv.shape) < 2:
        raise ValueError(f"[{tag}] x must have at least 2 dimensions, got shape {xv.shape}")
    lv = None if lhs is None else view(lhs)
    rv = None if rhs is None else view(rhs)
    for name, v in (("lhs_indices", lv), ("rhs_indices", rv)):
        if v is not None:
            check_ids(tag, name, v)
            if v.device != xv.device:
                raise ValueError(f"[{tag}] {name} lie on {device_name(v.device)}, x on "
                                 f"{device_name(xv.device)}")
    out = _broadcast(tag, a.batch if lv is None else lv.shape, batch if rv is None else rv.shape,
                     "lhs_indices and rhs_indices")
    both: List[Optional[Ids]] = []
    for side, v, n in (("lhs", lv, a.batch), ("rhs", rv, batch)):
        if v is None:
            ids = default_ids(frame, n, out, xv.device)
        elif 0 in out:
            ids = None
        else:
            ids = given_ids(v, out)
            if ids is not None:
                setattr(p, side, True)
            else:
                ids = spread_ids(v, out)
                p.once = True
        both.append(ids)
    return out, both[0], both[1]
