# SPDX-License-Identifier: MIT
"""gqmm for torch: operations of torch.library (they trace, so torch.compile(fullgraph=True) takes
them) and modules that take the place of the linears and experts of a model.

    torch.ops.gqmm.quantized_matmul, gather_qmm, quantize, dequantize    as in gqmm, on tensors
    torch.ops.gqmm.linear, gather_linear, moe, embed                     weights as byte planes
    QuantizedLinear, QuantizedExperts, quantize_model                    modules

Outside of torch.compile the functions of gqmm itself take torch tensors too, with less overhead.
There is no backward: a result that is differentiated raises a RuntimeError that says so.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch

import gqmm

from . import _abi
from ._block import embed as _embed
from ._block import moe as _moe
from ._context import _contexts, _make
from ._modes import DEFAULTS
from ._weights import Weights

_contexts[None] = _make(None)  # on torch's threads, also if the first calls came before torch
_library = torch.library.Library("gqmm", "DEF")
_known: Dict[Any, Weights] = {}


def weights_of(planes: Sequence[torch.Tensor], format: str, cols: int) -> Weights:
    """Weights over byte planes uint8 [..., N, bytes], which stay the caller's: nothing here keeps
    them alive. The same planes give the same object."""
    key: Tuple[Any, ...] = (format, cols)
    for p in planes:
        key += (p.data_ptr(), p.shape, p.stride())
    found = _known.get(key)
    if found is None:
        if len(_known) >= 4096:
            _known.clear()
        checked = Weights.from_planes(format, planes, cols)._matrix
        found = _known[key] = Weights(checked._replace(owner=None))
    return found


def _define(schema: str, run: Any, fake: Any) -> None:
    name = schema.split("(")[0]
    _library.define(schema)
    for key in ("CPU", "CUDA"):
        _library.impl(name, run, key)
    torch.library.register_fake(f"gqmm::{name}", fake, lib=_library)

    def no_backward(context: Any, *grads: Any) -> Any:
        raise RuntimeError(f"gqmm::{name} has no backward: quantised products are for inference; "
                           "call under torch.no_grad() or with detached tensors")

    torch.library.register_autograd(f"gqmm::{name}", no_backward, lib=_library)


# ---------------------------------------------------------------- MLX's functions

_HOW = "int? group_size=None, int? bits=None, str mode='affine'"


def _sizes(mode: str, group_size: Optional[int], bits: Optional[int]) -> Tuple[int, int]:
    group, width = DEFAULTS[mode]
    return group if group_size is None else group_size, width if bits is None else bits


def _promoted(x: torch.Tensor, scales: torch.Tensor, biases: Optional[torch.Tensor]) -> torch.dtype:
    if biases is None:
        return x.dtype
    return torch.promote_types(torch.promote_types(x.dtype, scales.dtype), biases.dtype)


def _n(w: torch.Tensor, transpose: bool, bits: int) -> Any:
    return w.shape[-2] if transpose else w.shape[-1] * 32 // bits


def _quantized_matmul_fake(x: Any, w: Any, scales: Any, biases: Any = None, transpose: bool = True,
                           group_size: Any = None, bits: Any = None, mode: str = "affine",
                           precision: str = "exact") -> Any:
    n = _n(w, transpose, _sizes(mode, group_size, bits)[1])
    batch = x.shape[:-1]
    if x.dim() > 2 and w.dim() > 2:
        batch = (*torch.broadcast_shapes(x.shape[:-2], w.shape[:-2]), x.shape[-2])
    return x.new_empty((*batch, n), dtype=_promoted(x, scales, biases))


def _gather_qmm_fake(x: Any, w: Any, scales: Any, biases: Any = None, lhs_indices: Any = None,
                     rhs_indices: Any = None, transpose: bool = True, group_size: Any = None,
                     bits: Any = None, mode: str = "affine", sorted_indices: bool = False,
                     precision: str = "exact") -> Any:
    if lhs_indices is None and rhs_indices is None:
        return _quantized_matmul_fake(x, w, scales, biases, transpose, group_size, bits, mode)
    left = x.shape[:-2] if lhs_indices is None else lhs_indices.shape
    right = w.shape[:-2] if rhs_indices is None else rhs_indices.shape
    n = _n(w, transpose, _sizes(mode, group_size, bits)[1])
    return x.new_empty((*torch.broadcast_shapes(left, right), x.shape[-2], n),
                       dtype=_promoted(x, scales, biases))


def _quantize_fake(w: Any, group_size: Any = None, bits: Any = None,
                   mode: str = "affine") -> List[Any]:
    group, width = _sizes(mode, group_size, bits)
    scales = (*w.shape[:-1], w.shape[-1] // group)
    out = [w.new_empty((*w.shape[:-1], w.shape[-1] * width // 32), dtype=torch.uint32)]
    if mode == "affine":
        return out + [w.new_empty(scales), w.new_empty(scales)]
    return out + [w.new_empty(scales, dtype=torch.uint8)]


def _dequantize(w: Any, scales: Any, biases: Any = None, group_size: Any = None, bits: Any = None,
                mode: str = "affine", dtype: Any = None) -> Any:
    return gqmm.dequantize(w, scales, biases, group_size, bits, mode, dtype=dtype)


def _dequantize_fake(w: Any, scales: Any, biases: Any = None, group_size: Any = None,
                     bits: Any = None, mode: str = "affine", dtype: Any = None) -> Any:
    if dtype is None:
        dtype = torch.bfloat16
        if biases is not None:
            dtype = torch.promote_types(scales.dtype, biases.dtype)
    return w.new_empty((*w.shape[:-1], w.shape[-1] * 32 // _sizes(mode, group_size, bits)[1]),
                       dtype=dtype)


def _gather_qmm(x: Any, w: Any, scales: Any, biases: Any = None, lhs_indices: Any = None,
                rhs_indices: Any = None, transpose: bool = True, group_size: Any = None,
                bits: Any = None, mode: str = "affine", sorted_indices: bool = False,
                precision: str = "exact") -> Any:
    return gqmm.gather_qmm(x, w, scales, biases, lhs_indices, rhs_indices, transpose, group_size,
                           bits, mode, sorted_indices=sorted_indices, precision=precision)


def _quantized_matmul(x: Any, w: Any, scales: Any, biases: Any = None, transpose: bool = True,
                      group_size: Any = None, bits: Any = None, mode: str = "affine",
                      precision: str = "exact") -> Any:
    return gqmm.quantized_matmul(x, w, scales, biases, transpose, group_size, bits, mode,
                                 precision=precision)


def _quantize(w: Any, group_size: Any = None, bits: Any = None, mode: str = "affine") -> List[Any]:
    return list(gqmm.quantize(w, group_size, bits, mode))


_define("quantized_matmul(Tensor x, Tensor w, Tensor scales, Tensor? biases=None, bool "
        f"transpose=True, {_HOW}, str precision='exact') -> Tensor",
        _quantized_matmul, _quantized_matmul_fake)
_define("gather_qmm(Tensor x, Tensor w, Tensor scales, Tensor? biases=None, Tensor? "
        f"lhs_indices=None, Tensor? rhs_indices=None, bool transpose=True, {_HOW}, bool "
        "sorted_indices=False, str precision='exact') -> Tensor", _gather_qmm, _gather_qmm_fake)
_define(f"quantize(Tensor w, {_HOW}) -> Tensor[]", _quantize, _quantize_fake)
_define(f"dequantize(Tensor w, Tensor scales, Tensor? biases=None, {_HOW}, ScalarType? dtype=None) "
        "-> Tensor", _dequantize, _dequantize_fake)


# ---------------------------------------------------------------- any format, as byte planes

def _linear(x: Any, planes: List[Any], format: str, precision: str = "exact") -> Any:
    return gqmm.quantized_matmul(x, weights_of(planes, format, x.shape[-1]), precision=precision)


def _linear_fake(x: Any, planes: List[Any], format: str, precision: str = "exact") -> Any:
    return x.new_empty((*x.shape[:-1], planes[0].shape[-2]))


def _gather_linear(x: Any, planes: List[Any], format: str, ids: Any,
                   precision: str = "exact") -> Any:
    w = weights_of(planes, format, x.shape[-1])
    return gqmm.gather_qmm(x.unsqueeze(-2), w, rhs_indices=ids, precision=precision).squeeze(-2)


def _gather_linear_fake(x: Any, planes: List[Any], format: str, ids: Any,
                        precision: str = "exact") -> Any:
    return x.new_empty((*torch.broadcast_shapes(x.shape[:-1], ids.shape), planes[0].shape[-2]))


def _moe_run(x: Any, gate: List[Any], gate_format: str, down: List[Any], down_format: str,
             ids: Any, weights: Any, precision: str = "exact") -> Any:
    d = x.shape[-1]
    g = weights_of(gate, gate_format, d)
    return _moe(x, g, None, weights_of(down, down_format, g.shape[1] // 2), ids=ids,
                weights=weights, precision=precision)


def _moe_fake(x: Any, gate: List[Any], gate_format: str, down: List[Any], down_format: str,
              ids: Any, weights: Any, precision: str = "exact") -> Any:
    return x.new_empty(x.shape)


def _embed_run(ids: Any, planes: List[Any], format: str, cols: int, dtype: Any) -> Any:
    return _embed(weights_of(planes, format, cols), ids, dtype)


def _embed_fake(ids: Any, planes: List[Any], format: str, cols: int, dtype: Any) -> Any:
    return ids.new_empty((*ids.shape, cols), dtype=dtype)


_define("linear(Tensor x, Tensor[] planes, str format, str precision='exact') -> Tensor",
        _linear, _linear_fake)
_define("gather_linear(Tensor x, Tensor[] planes, str format, Tensor ids, str precision='exact') "
        "-> Tensor", _gather_linear, _gather_linear_fake)
_define("moe(Tensor x, Tensor[] gate_up, str gate_up_format, Tensor[] down, str down_format, "
        "Tensor ids, Tensor weights, str precision='exact') -> Tensor", _moe_run, _moe_fake)
_define("embed(Tensor ids, Tensor[] planes, str format, int cols, ScalarType dtype) -> Tensor",
        _embed_run, _embed_fake)


# ---------------------------------------------------------------- modules

class _Planes(torch.nn.Module):
    """Quantised matrices as buffers, so that state_dict() and .to() know them."""

    def __init__(self, w: torch.Tensor, format: str):
        super().__init__()
        made = Weights.quantize(w.detach(), format)
        self.format, self.shape = format, made.shape
        self.count = len(made._matrix.owner)
        for i, held in enumerate(made._matrix.owner):
            plane = held if isinstance(held, torch.Tensor) else torch.from_numpy(held[0])
            self.register_buffer(f"plane{i}", plane.view(*w.shape[:-1], -1))

    @property
    def planes(self) -> List[torch.Tensor]:
        return [self._buffers[f"plane{i}"] for i in range(self.count)]  # type: ignore[misc]

    def extra_repr(self) -> str:
        bits = 8 * sum(_abi.row_bytes(self.format, self.shape[2])) / self.shape[2]
        return f"{self.format}, {list(self.shape)}, {bits:g} bits per weight"


class QuantizedLinear(torch.nn.Module):
    """torch.nn.Linear with weights in any format of gqmm.formats(): x [..., K] to [..., N]."""

    def __init__(self, weight: torch.Tensor, bias: Optional[torch.Tensor] = None,
                 format: str = "q8_0", precision: str = "exact"):
        super().__init__()
        self.weight = _Planes(weight, format)
        self.out_features, self.in_features = weight.shape
        self.precision = precision
        self.register_buffer("bias", None if bias is None else bias.detach())

    @classmethod
    def from_linear(cls, linear: torch.nn.Linear, format: str = "q8_0",
                    precision: str = "exact") -> "QuantizedLinear":
        return cls(linear.weight, linear.bias, format, precision)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ops.gqmm.linear(x, self.weight.planes, self.weight.format, self.precision)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"precision={self.precision}"


class QuantizedExperts(torch.nn.Module):
    """The experts of a Hugging Face mixture-of-experts block, in its words: forward(hidden [T, D],
    top_k_index [T, S], top_k_weights [T, S]) to [T, D].

    gate_up [E, 2F, D], the rows of the gate first, and down [E, D, F]. Without biases the whole
    block is one call (SwiGLU). With biases and alpha, limit it is gpt-oss's: both clamped,
    gate * sigmoid(alpha * gate) * (up + 1).
    """

    gate_up_bias: Optional[torch.Tensor]
    down_bias: Any

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor, format: str = "q4_k",
                 precision: str = "exact", gate_up_bias: Optional[torch.Tensor] = None,
                 down_bias: Optional[torch.Tensor] = None, alpha: float = 1.0,
                 limit: Optional[float] = None):
        super().__init__()
        self.gate_up, self.down = _Planes(gate_up, format), _Planes(down, format)
        self.precision, self.alpha, self.limit = precision, alpha, limit
        for name, bias in (("gate_up_bias", gate_up_bias), ("down_bias", down_bias)):
            self.register_buffer(name, None if bias is None else bias.detach())

    @classmethod
    def from_module(cls, experts: Any, format: str = "q4_k",
                    precision: str = "exact") -> "QuantizedExperts":
        """From Qwen3MoeExperts, GptOssExperts and those that are laid out like one of them."""
        gate_up, down = experts.gate_up_proj.detach(), experts.down_proj.detach()
        if getattr(experts, "gate_up_proj_bias", None) is None:
            act = type(getattr(experts, "act_fn", torch.nn.SiLU())).__name__
            if "SiLU" not in act:
                raise ValueError(f"experts with the activation {act}: only SiLU is fused")
            return cls(gate_up, down, format, precision)
        # gpt-oss: [E, D, 2F] and [E, F, D], gate and up in turns
        rows, bias = gate_up.transpose(1, 2), experts.gate_up_proj_bias.detach()
        return cls(torch.cat([rows[:, ::2], rows[:, 1::2]], 1), down.transpose(1, 2), format,
                   precision, torch.cat([bias[:, ::2], bias[:, 1::2]], 1),
                   experts.down_proj_bias.detach(), float(experts.alpha), float(experts.limit))

    def forward(self, hidden_states: torch.Tensor, top_k_index: torch.Tensor,
                top_k_weights: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.gqmm
        g, d = self.gate_up, self.down
        if self.gate_up_bias is None:
            return ops.moe(hidden_states, g.planes, g.format, d.planes, d.format, top_k_index,
                           top_k_weights, self.precision)
        x = hidden_states.unsqueeze(-2)  # [T, 1, D] for S slots each
        both = ops.gather_linear(x, g.planes, g.format, top_k_index, self.precision)
        gate, up = (both + self.gate_up_bias[top_k_index]).chunk(2, -1)
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        h = gate * torch.sigmoid(gate * self.alpha) * (up + 1)
        y = ops.gather_linear(h, d.planes, d.format, top_k_index, self.precision)
        y = y + self.down_bias[top_k_index]
        return (y * top_k_weights.unsqueeze(-1).to(y.dtype)).sum(-2)


def quantize_model(model: torch.nn.Module, experts: Optional[str] = "q4_k",
                   linears: Optional[str] = None, precision: str = "exact",
                   skip: Sequence[str] = ("gate", "router", "lm_head")) -> Dict[str, str]:
    """Replaces, in place, the experts of a model (modules with gate_up_proj and down_proj) and, if
    a format is named for them, its torch.nn.Linear layers. skip: last parts of the names of modules
    that stay (routers are sensitive). Rows that do not divide into the format's blocks stay too.
    Returns what became of every module that was looked at: {name: format or the reason}."""
    done: Dict[str, str] = {}
    module: Any
    for name, module in list(model.named_modules()):
        last = name.split(".")[-1]
        if all(torch.is_tensor(getattr(module, n, None)) for n in ("gate_up_proj", "down_proj")):
            format, columns = experts, None
            if format:
                columns = _columns(module)
        elif isinstance(module, torch.nn.Linear):
            format, columns = linears, [module.in_features]
        else:
            continue
        if not format or last in skip or not name:
            done[name] = "skipped"
            continue
        block = _abi.format_info(format).block_elems
        if any(c % block for c in columns or []):
            done[name] = f"rows of {columns} weights do not divide into blocks of {block}"
            continue
        new: torch.nn.Module
        if isinstance(module, torch.nn.Linear):
            new = QuantizedLinear.from_linear(module, format, precision)
        else:
            new = QuantizedExperts.from_module(module, format, precision)
        parent = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
        setattr(parent, last, new)
        done[name] = format
    return done


def _columns(experts: Any) -> List[int]:
    """Row lengths of the two matrices."""
    axis = 2 if getattr(experts, "gate_up_proj_bias", None) is None else 1
    return [experts.gate_up_proj.shape[axis], experts.down_proj.shape[axis]]


__all__ = ["QuantizedExperts", "QuantizedLinear", "quantize_model", "weights_of"]
