# SPDX-License-Identifier: MIT
"""The feed-forward block of a mixture of experts in one call, and rows by token id."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from . import _abi
from ._context import Context, default_context
from ._frames import View, dtype_name, frame_of, one_stride, view
from ._product import refuse_grad
from ._weights import Weights, as_weights


def _rows(tag: str, a: Any, v: View, keep: List[Any]) -> Tuple[View, int]:
    """(view, elements from row to row) of [..., D] as a matrix; a copy where strides do not say."""
    size = v.itemsize
    flat = one_stride(v.shape[:-1], v.strides[:-1]) if len(v.shape) > 1 else 0
    dense = v.shape[-1] <= 1 or v.strides[-1] == size
    if flat is None or flat < 0 or flat % size or not dense or v.at % size:
        copy = frame_of(a).dense(a)
        keep.append(copy)
        return view(copy), 0
    return v, (flat // size or -1) if v.size > v.shape[-1] else 0


def _dense(a: Any, dtype: str, keep: List[Any]) -> View:
    v = view(a)
    if v.dtype != dtype or not v.is_dense():
        a = frame_of(a).dense(a, dtype)
        keep.append(a)
        v = view(a)
    return v


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
    frame = frame_of(x)
    if frame.grad is not None and frame.grad(x):
        refuse_grad("moe", frame)
    v = frame.view(x)
    if v.dtype not in _abi.TYPES or not v.shape:
        raise ValueError(f"[moe] x must be float32, float16 or bfloat16 [..., D], got {v.dtype} "
                         f"of shape {v.shape}")
    if scoring not in _abi.SCORINGS or precision not in _abi.PRECISIONS:
        raise ValueError(f"[moe] scoring '{scoring}' is none of softmax, sigmoid, or precision "
                         f"'{precision}' none of exact, int8")
    ctx = context or default_context(v.device)
    keep: List[Any] = []
    fields: Dict[str, Any] = {}
    parts = {"gate": gate, "up": up, "down": down, "router": router, "shared_gate": shared_gate,
             "shared_up": shared_up, "shared_down": shared_down, "shared_scale": shared_scale}
    for name, part in parts.items():
        if part is not None:
            made = as_weights(part, ctx)
            keep.append(made)
            fields[name] = made._handle
    lead, d = v.shape[:-1], v.shape[-1]
    _check_block(d, {n: as_weights(p, ctx) for n, p in parts.items() if p is not None}, router)
    if router is None:
        iv, wv = _given_routing(ids, weights, lead, keep)
        slots = iv.shape[-1]
        chosen: Any = (None, None)
        fields.update(ids=iv.at, weights=wv.at)
    else:
        if ids is not None or weights is not None or n_slots is None:
            raise TypeError("[moe] with a router, n_slots is needed, and no ids and weights")
        slots = int(n_slots)
        chosen = tuple(frame.empty(lead + (slots,), frame.dtype(t), v.device)
                       for t in ("int32", "float32"))
        fields.update(ids=chosen[0][1], weights=chosen[1][1])
        if router_bias is not None:
            fields["router_bias"] = _dense(router_bias, "float32", keep).at
    y, at = frame.empty(v.shape, frame.dtype(v.dtype), v.device)
    xv, stride = _rows("moe", x, v, keep)
    if v.size:
        desc = _abi.new(
            "gqmm_moe_desc", precision=_abi.PRECISIONS[precision], n_tokens=v.size // d,
            n_slots=slots, scoring=_abi.SCORINGS[scoring], renormalize=int(renormalize),
            routed_scale=routed_scale, y_type=_abi.TYPES[v.dtype], x_type=_abi.TYPES[v.dtype],
            y=at, x=xv.at, x_row_stride=stride, **fields)
        ctx._call("gqmm_moe", desc, frame)
    y = frame.finish(y)
    if not return_routing:
        return y
    if router is None:
        return y, ids, weights
    return y, frame.finish(chosen[0][0]), frame.finish(chosen[1][0])


def _check_block(d: int, parts: Dict[str, Weights], router: Any) -> None:
    """What the C library cannot see, or says in other words."""
    if parts["gate"].shape[2] != d or parts["down"].shape[1] != d:
        raise ValueError(f"[moe] x has rows of {d}, but gate is {list(parts['gate'].shape)} and "
                         f"down {list(parts['down'].shape)}: expected [E, F, {d}] and [E, {d}, F]")


def _given_routing(ids: Any, weights: Any, lead: Tuple[int, ...],
                   keep: List[Any]) -> Tuple[View, View]:
    if ids is None or weights is None:
        raise TypeError("[moe] ids and weights are needed, or a router and n_slots")
    iv = view(ids)
    if iv.dtype == "uint32" and iv.is_dense():
        keep.append(ids)
    elif iv.dtype in ("int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64"):
        iv = _dense(ids, "int32", keep)
    else:
        raise ValueError(f"[moe] ids must be integers, got {iv.dtype}")
    wv = _dense(weights, "float32", keep)
    if iv.shape[:-1] != lead or iv.shape != wv.shape or not iv.shape:
        raise ValueError(f"[moe] ids {iv.shape} and weights {wv.shape} must be "
                         f"{lead + ('S',)}")
    return iv, wv


def embed(w: Weights, ids: Any, dtype: Any = None, *, context: Optional[Context] = None) -> Any:
    """Rows of a quantised matrix by token id: w [1, V, K], ids integers of any shape; -1 gives
    zeros. Result [*ids.shape, K], of the kind of ids, float32 unless dtype says otherwise."""
    frame = frame_of(ids)
    v = frame.view(ids)
    name = "float32" if dtype is None else dtype_name(dtype)
    if v.dtype not in ("int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64"):
        raise ValueError(f"[embed] ids must be integers, got {v.dtype}")
    keep: List[Any] = []
    if v.dtype != "uint32" or not v.is_dense():
        v = _dense(ids, "int32", keep)
    y, at = frame.empty(v.shape + (w.shape[2],), frame.dtype(name), v.device)
    if v.size:
        (context or default_context(v.device))._call("gqmm_embed", _abi.new(
            "gqmm_embed_desc", y_type=_abi.TYPES[name], w=w._handle, n_ids=v.size, ids=v.at,
            y=at), frame)
    return frame.finish(y)
