# SPDX-License-Identifier: MIT
"""quantized_matmul and gather_qmm, with MLX's arguments.

A call is planned once for each combination of shapes, strides and dtypes (_plan.py). A call of a
known kind is then: the addresses, one look-up, an empty result, a few stores, the C call.
"""

from __future__ import annotations

from typing import Any, Optional

from . import _abi
from ._context import Context, context_of
from ._frames import _frames, frame_of, view
from ._modes import mlx_matrix
from ._plan import Plan, plan_of, remember
from ._weights import Weights


def _run(p: Plan, context: Context, x: int, lhs: int, rhs: int) -> Any:
    y, at = p.make()
    d = p.desc
    if d is None:
        if not p.frame.waits:  # (JAX's are zeros already)
            y[...] = 0
        return p.frame.finish(y)
    work = None
    with context._lock:
        d.x = x
        d.y = at
        if p.lhs:
            d.lhs = lhs
        if p.rhs:
            d.rhs = rhs
        if p.scratch is not None:
            work, d.workspace = p.scratch()
        if context._moves:
            context._follow(p.frame)
        if p.run(context._handle, p.at, context._error_at):
            context._fail()
        if p.waits:
            _abi.call("gqmm_synchronize", context._handle)
    del work  # its allocator may give it to what is enqueued after this call
    return y if p.finish is None else p.finish(y)


_HAS_SCALES = "gqmm.Weights carry their scales: pass none, and no biases"


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
            raise TypeError(_HAS_SCALES)
        matrix, plans = w, w._plans
    else:
        if scales is None:
            raise TypeError(f"[{tag}] scales are missing: w is an array, not gqmm.Weights")
        matrix = mlx_matrix(tag, w, scales, biases, group_size, bits, mode, global_scale)
        plans = context._plans
    xv = fx.view(x)
    plan, copy = plan_of(tag, x, xv, matrix, lhs, rhs, gather, transpose, sorted_ids, precision,
                       context)
    if not (plan.once or getattr(matrix, "copied", False) or global_scale is not None):
        remember(plans, key, plan)
    source = xv if copy is None else view(copy)
    lv = view(lhs) if plan.lhs else None
    rv = view(rhs) if plan.rhs else None
    y = _run(plan, context, source.at, lv.at if lv else 0, rv.at if rv else 0)
    del matrix, source, copy, lv, rv  # alive until here: what the call has read
    return y


def _product(tag: str, x: Any, w: Any, scales: Any, biases: Any, lhs: Any, rhs: Any,
             transpose: bool, group_size: Optional[int], bits: Optional[int], mode: str,
             global_scale: Any, sorted_ids: bool, precision: str,
             context: Optional[Context]) -> Any:
    key: Any
    fx = _frames.get(type(x)) or frame_of(x)
    if type(w) is Weights:
        if scales is not None or biases is not None:
            raise TypeError(_HAS_SCALES)
        seen = fx.look(x, None, None, None, lhs, rhs)
        ctx = context or context_of(seen[4], fx)
        plans, key = w._plans, (seen[0], transpose, sorted_ids, precision, ctx)
    else:
        seen = fx.look(x, w, scales, biases, lhs, rhs)
        ctx = context or context_of(seen[4], fx)
        plans = ctx._plans
        key = (seen[0], transpose, group_size, bits, mode, sorted_ids, precision)
    if fx.grad is not None and fx.grad(x):
        refuse_grad(tag, fx)
    found = plans.get(key) if global_scale is None else None
    if found is None or found.frame is not fx:
        return _first(tag, key, x, fx, w, scales, biases, lhs, rhs,
                      lhs is not None or rhs is not None, transpose, group_size, bits, mode,
                      global_scale, sorted_ids, precision, ctx)
    if found.copies is None:
        return _run(found, ctx, seen[1], seen[2], seen[3])
    x = fx.dense(x, found.copies)
    return _run(found, ctx, fx.raw(x)[0], seen[2], seen[3])


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
    return _product("quantized_matmul", x, w, scales, biases, None, None, transpose, group_size,
                    bits, mode, None, False, precision, context)


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
    return _product("gather_qmm", x, w, scales, biases, lhs_indices, rhs_indices, transpose,
                    group_size, bits, mode, global_scale, sorted_indices, precision, context)
