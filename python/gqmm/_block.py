# SPDX-License-Identifier: MIT
"""The feed-forward block of a mixture of experts in one call, and rows by token id."""

from __future__ import annotations

import ctypes as C
from typing import Any, Dict, List, Optional, Tuple

from . import _abi
from ._context import Context, context_of
from ._frames import INTS, View, _frames, device_name, dtype_name, frame_of, one_stride, view
from ._plan import remember
from ._product import refuse_grad
from ._weights import Weights, as_weights

_moe = _abi.lib.gqmm_moe
_NOTHING: Any = (0, None, None, None, None, None)


class Plan:
    """One kind of call of moe: what makes its results, the descriptor, what that points at."""

    __slots__ = ("frame", "make", "desc", "at", "keep", "copies", "ids_as", "weights_as",
                 "routing", "scratch", "once")

    def __init__(self, frame: Any):
        self.frame = frame
        self.copies = False  # x is copied first
        self.ids_as: Optional[str] = None  # the dtype that ids are copied as
        self.weights_as: Optional[str] = None
        self.routing: Any = ()  # what makes ids and weights that are results
        self.scratch: Any = None  # on a device: what makes workspaces
        self.once = False  # it points at copies of this call's arrays
        self.keep: List[Any] = []
        self.make: Any = None
        self.desc: Any = None
        self.at = 0


def _dense(a: Any, dtype: str, keep: List[Any]) -> View:
    v = view(a)
    if v.dtype != dtype or not v.is_dense():
        a = frame_of(a).dense(a, dtype)
        keep.append(a)
        v = view(a)
    return v


def _row_stride(v: View) -> Optional[int]:
    """Elements from row to row of [..., D] as a matrix (0: dense); None: strides do not say."""
    size = v.itemsize
    flat = one_stride(v.shape[:-1], v.strides[:-1]) if len(v.shape) > 1 else 0
    dense = v.shape[-1] <= 1 or v.strides[-1] == size
    if flat is None or flat < 0 or flat % size or not dense or v.at % size:
        return None
    return (flat // size or -1) if v.size > v.shape[-1] else 0


def _key(part: Any) -> Any:
    if type(part) is Weights:
        return part._number
    return None if part is None else frame_of(part).raw(part)[:4]


def moe(x: Any, gate: Any, up: Any, down: Any, *, ids: Any = None, weights: Any = None,
        router: Any = None, n_slots: Optional[int] = None, scoring: str = "softmax",
        renormalize: bool = True, routed_scale: float = 1.0, router_bias: Any = None,
        shared_gate: Any = None, shared_up: Any = None, shared_down: Any = None,
        shared_scale: Any = None, return_routing: bool = False, precision: str = "exact",
        context: Optional[Context] = None) -> Any:
    """The feed-forward block: y[t] = sum over slots s of weights[t, s] * down[e] . h, where
    e = ids[t, s] and h = silu(gate[e] . x[t]) * (up[e] . x[t]).

    x       float32, float16 or bfloat16 [..., D]
    gate, up, down  gqmm.Weights [E, F, D], [E, F, D], [E, D, F]; up=None: gate is [E, 2F, D],
            the rows of the gate first
    Routing, one of two:
    ids, weights    integers [..., S] (-1 skips the slot) and floats [..., S]
    router  Weights or a float array [E, D], with n_slots=S: the S largest of router . x in
            float32 win. scoring "softmax" (renormalize: over the S chosen) or "sigmoid" (chosen
            by sigmoid + router_bias, float32 [E]); all weights are multiplied by routed_scale
    shared_gate, shared_up, shared_down  Weights [G, D], [G, D], [D, G] of a shared expert,
            multiplied by sigmoid(shared_scale . x[t]) if shared_scale [1, D] is given
    precision  see quantized_matmul
    result  [..., D] like x; with return_routing (y, ids int32, weights float32)

    Copied where they are not so already: ids as int32, weights as float32, both dense.
    """
    frame = _frames.get(type(x)) or frame_of(x)
    xr = frame.raw(x)
    ir = _NOTHING if ids is None else (_frames.get(type(ids)) or frame_of(ids)).raw(ids)
    wr = _NOTHING if weights is None else (_frames.get(type(weights)) or
                                           frame_of(weights)).raw(weights)
    ctx = context or context_of(xr[4], frame)
    if frame.grad is not None and frame.grad(x):
        refuse_grad("moe", frame)
    more: Any = None
    if router is not None or shared_gate is not None:
        more = (_key(router), n_slots, scoring, renormalize, routed_scale, _key(router_bias),
                _key(shared_gate), _key(shared_up), _key(shared_down), _key(shared_scale),
                return_routing)
    key = ("moe", (xr[0] | ir[0] | wr[0]) & 3, xr[1], xr[2], xr[3], *ir[1:5], *wr[1:5], _key(gate),
           _key(up), _key(down), more, precision, ctx)
    plans = gate._plans if type(gate) is Weights else ctx._plans
    plan = plans.get(key)
    if plan is None or plan.frame is not frame:
        if scoring not in _abi.SCORINGS or precision not in _abi.PRECISIONS:
            raise ValueError(f"[moe] scoring '{scoring}' is none of softmax, sigmoid, or precision "
                             f"'{precision}' none of exact, int8")
        options = {"precision": _abi.PRECISIONS[precision], "scoring": _abi.SCORINGS[scoring],
                   "renormalize": int(renormalize), "routed_scale": routed_scale}
        parts = {"gate": gate, "up": up, "down": down, "router": router,
                 "shared_gate": shared_gate, "shared_up": shared_up, "shared_down": shared_down,
                 "shared_scale": shared_scale}
        plan = _plan(frame, x, ids, weights, {n: p for n, p in parts.items() if p is not None},
                     n_slots, router_bias, return_routing, options, ctx)
        if not plan.once:
            remember(plans, key, plan)
    at = xr[0]
    if plan.copies:
        x = frame.dense(x)
        at = frame.raw(x)[0]
    routing = (ir[0], wr[0])
    if plan.ids_as or plan.weights_as:
        ids, weights, routing = _converted(plan, ids, weights)
    made: Any = ()
    if plan.routing:
        made = [make() for make in plan.routing]
        routing = (made[0][1], made[1][1])
    y = _run(plan, ctx, at, *routing)
    if not return_routing:
        return y
    if router is None:
        return y, ids, weights
    return y, frame.finish(made[0][0]), frame.finish(made[1][0])


def _run(p: Plan, context: Context, x: int, ids: int, weights: int) -> Any:
    y, at = p.make()
    d = p.desc
    if d is None:
        return p.frame.finish(y)
    work = None
    with context._lock:
        d.x, d.y = x, at
        d.ids, d.weights = ids or None, weights or None
        if p.scratch:
            work, d.workspace = p.scratch()
        context._run(_moe, p.at, p.frame)
    del work  # the allocator may give it to what is enqueued after this call
    return p.frame.finish(y)


def _converted(p: Plan, ids: Any, weights: Any) -> Tuple[Any, Any, Tuple[int, int]]:
    """Routing in the types that the C library takes, and where it lies."""
    if p.ids_as:
        ids = frame_of(ids).dense(ids, p.ids_as)
    if p.weights_as:
        weights = frame_of(weights).dense(weights, p.weights_as)
    return ids, weights, (view(ids).at, view(weights).at)


def _plan(frame: Any, x: Any, ids: Any, weights: Any, parts: Dict[str, Any],
          n_slots: Optional[int], router_bias: Any, return_routing: bool,
          options: Dict[str, Any], context: Context) -> Plan:
    v = frame.view(x)
    if v.dtype not in _abi.TYPES or not v.shape:
        raise ValueError(f"[moe] x must be float32, float16 or bfloat16 [..., D], got {v.dtype} "
                         f"of shape {v.shape}")
    lead, d = v.shape[:-1], v.shape[-1]
    if context._device != v.device:
        raise ValueError(f"[moe] x lies on {device_name(v.device)}, but the context is of "
                         f"{context.device}")
    made = {name: as_weights(part, context) for name, part in parts.items()}
    _check_block(d, v, made)
    p = Plan(frame)
    for name, part in parts.items():
        if not isinstance(part, Weights):  # the key holds its address: the handle is kept alone
            p.keep.append(made[name])
            if made[name]._matrix.planes[0][0] != frame_of(part).raw(part)[0]:
                p.once = True  # a copy
            else:
                made[name]._matrix = made[name]._matrix._replace(owner=None)
    fields = {name: w._handle for name, w in made.items()}
    if "router" in parts:
        if ids is not None or weights is not None or n_slots is None:
            raise TypeError("[moe] with a router, n_slots is needed, and no ids and weights")
        slots = int(n_slots)
        if return_routing:
            p.routing = [frame.maker(lead + (slots,), frame.dtype(t), v.device)
                         for t in ("int32", "float32")]
        if router_bias is not None:
            held: List[Any] = []
            fields["router_bias"] = _dense(router_bias, "float32", held).at
            p.once, p.keep = p.once or bool(held), p.keep + held
    else:
        slots = _given_routing(ids, weights, v, p)
    p.make = frame.maker(v.shape, frame.dtype(v.dtype), v.device)
    stride = _row_stride(v)
    p.copies = stride is None
    if not v.size:
        return p
    p.desc = _abi.new(
        "gqmm_moe_desc", n_tokens=v.size // d, n_slots=slots, y_type=_abi.TYPES[v.dtype],
        x_type=_abi.TYPES[v.dtype], x_row_stride=stride or 0, **options, **fields)
    p.at = C.addressof(p.desc)
    if v.device is not None:
        size = C.c_size_t()
        with context._lock:
            _abi.call("gqmm_workspace_size", context._handle, _abi.OPERATIONS["MOE"], p.desc,
                      C.byref(size))
        if size.value:
            p.scratch = frame.maker((size.value,), frame.dtype("uint8"), v.device)
            p.desc.workspace_bytes = size.value
    return p


def _check_block(d: int, x: View, parts: Dict[str, Weights]) -> None:
    """What the C library cannot see, or says in other words."""
    if parts["gate"].shape[2] != d or parts["down"].shape[1] != d:
        raise ValueError(f"[moe] x has rows of {d}, but gate is {list(parts['gate'].shape)} and "
                         f"down {list(parts['down'].shape)}: expected [E, F, {d}] and [E, {d}, F]")
    for name, part in parts.items():
        if part._matrix.device != x.device:
            raise ValueError(f"[moe] x lies on {device_name(x.device)}, {name} on {part.device}")


def _given_routing(ids: Any, weights: Any, x: View, p: Plan) -> int:
    """The number of slots; what is copied is put down in the plan."""
    if ids is None or weights is None:
        raise TypeError("[moe] ids and weights are needed, or a router and n_slots")
    iv, wv = view(ids), view(weights)
    if iv.dtype not in INTS:
        raise ValueError(f"[moe] ids must be integers, got {iv.dtype}")
    if iv.shape[:-1] != x.shape[:-1] or iv.shape != wv.shape or not iv.shape:
        raise ValueError(f"[moe] ids {iv.shape} and weights {wv.shape} must be "
                         f"{x.shape[:-1] + ('S',)}")
    if iv.device != x.device or wv.device != x.device:
        raise ValueError(f"[moe] x lies on {device_name(x.device)}, ids on "
                         f"{device_name(iv.device)}, weights on {device_name(wv.device)}")
    if iv.dtype not in ("int32", "uint32") or not iv.is_dense():
        p.ids_as = "int32"
    if wv.dtype != "float32" or not wv.is_dense():
        p.weights_as = "float32"
    return iv.shape[-1]


def embed(w: Weights, ids: Any, dtype: Any = None, *, context: Optional[Context] = None) -> Any:
    """Rows of a quantised matrix by token id: w [1, V, K], ids integers of any shape; -1 gives
    zeros. Result [*ids.shape, K], of the kind of ids, float32 unless dtype says otherwise."""
    frame = frame_of(ids)
    v = frame.view(ids)
    name = "float32" if dtype is None else dtype_name(dtype)
    if v.dtype not in INTS:
        raise ValueError(f"[embed] ids must be integers, got {v.dtype}")
    if v.device != w._matrix.device:
        raise ValueError(f"[embed] ids lie on {device_name(v.device)}, the rows on {w.device}")
    keep: List[Any] = []
    if v.dtype != "uint32" or not v.is_dense():
        v = _dense(ids, "int32", keep)
    y, at = frame.empty(v.shape + (w.shape[2],), name, v.device)
    if v.size:
        (context or context_of(v.device, frame))._call("gqmm_embed", _abi.new(
            "gqmm_embed_desc", y_type=_abi.TYPES[name], w=w._handle, n_ids=v.size, ids=v.at,
            y=at), frame)
    return frame.finish(y)
