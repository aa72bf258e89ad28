# SPDX-License-Identifier: MIT
"""Weights: a stack of matrices in any of gqmm's formats, read where it lies."""

from __future__ import annotations

import ctypes as C
import itertools
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from . import _abi
from ._context import Context, any_context, context_of, device_index
from ._copies import moved
from ._frames import NUMPY, device_name, dtype_name, frame_named, frame_of, view
from ._modes import Matrix, SHORT, blocks_matrix, mlx_matrix, plane, readable

_lib = _abi.lib
_UNSUPPORTED = 5
_numbers = itertools.count()


def make_handle(context: Context, m: Matrix) -> int:
    """gqmm_weights_create. The Matrix and what it points at must outlive the handle."""
    experts = 1
    for n in m.batch:
        experts *= n
    desc = _abi.new("gqmm_weights_desc", format=m.format.encode(), n_experts=experts,
                    n_rows=m.rows, n_cols=m.cols, global_scale=m.global_at or None,
                    global_scale_stride=m.global_stride)
    for i, (at, row, expert) in enumerate(m.planes):
        desc.plane[i], desc.row_stride[i], desc.expert_stride[i] = at, row, expert
    out = C.c_void_p()
    _abi.call("gqmm_weights_create", context._handle, desc, C.byref(out))
    return out.value or 0


class Weights:
    """E matrices of N rows and K columns, quantised along K, in one of `gqmm.formats()`.

    The bytes stay where they are and their owner stays alive as long as this object. Made by
    `from_mlx`, `from_int4`, `from_gguf`, `from_blocks`, `from_array` (floats as they are) and
    `quantize` (the only one that allocates memory for weights). Takes the place of `w` in
    `quantized_matmul` and `gather_qmm`, and is what `moe` and `embed` take.

    Attributes: format, shape (E, N, K), nbytes, bits_per_weight, isa (the room of kernels).
    """

    _handle = 0

    def __init__(self, matrix: Matrix, context: Optional[Context] = None):
        if 0 in matrix.batch or not matrix.rows or not matrix.cols:
            raise ValueError(f"weights of shape {matrix.batch + (matrix.rows, matrix.cols)}: "
                             "every size must be at least 1")
        made_with = context or any_context(matrix.device)
        if made_with._device != matrix.device:
            raise ValueError(f"the weights lie on {device_name(matrix.device)}, but the context "
                             f"is of {made_with.device}")
        self._context = context
        self._matrix = matrix
        self._handle = make_handle(made_with, matrix)
        self._plans: Dict[Any, Any] = {}
        self._number = next(_numbers)  # never that of another, as an address may be

    def __del__(self, _destroy: Any = _lib.gqmm_weights_destroy) -> None:
        if self._handle:
            _destroy(self._handle)
            self._handle = 0

    # ------------------------------------------------------------ making

    @classmethod
    def from_mlx(cls, w: Any, scales: Any, biases: Any = None, group_size: Optional[int] = None,
                 bits: Optional[int] = None, mode: str = "affine", global_scale: Any = None,
                 context: Optional[Context] = None) -> "Weights":
        """What `mlx.core.quantize` returns: w uint32 [..., N, K*bits/32], scales (and biases)
        [..., N, K/group_size], float for mode "affine", uint8 for "mxfp4", "mxfp8", "nvfp4".
        The leading dimensions are experts, flat. Copied only where strides cannot be followed:
        rows that are not dense, and scales and biases of unlike dtypes."""
        return cls(mlx_matrix("Weights.from_mlx", w, scales, biases, group_size, bits, mode,
                              global_scale), context)

    @classmethod
    def from_int4(cls, packed: Any, scales: Any, context: Optional[Context] = None) -> "Weights":
        """Symmetric int4: packed uint8 or int8 [..., N, K/2], the even k in the low nibble,
        weight (q - 8) * scale; scales bfloat16 [..., N, K/group] with groups of 32, 64 or 128."""
        pv, sv = view(packed), view(scales)
        if pv.dtype not in ("uint8", "int8") or sv.dtype != "bfloat16":
            raise ValueError("int4 weights are uint8 or int8 codes with bfloat16 scales, got "
                             f"{pv.dtype} and {sv.dtype}")
        if len(pv.shape) < 2 or pv.shape[:-1] != sv.shape[:-1] or not sv.shape[-1]:
            raise ValueError(f"int4 codes of shape {pv.shape} and scales of shape {sv.shape}: all "
                             "dimensions but the last must agree")
        group, rest = divmod(pv.shape[-1] * 2, sv.shape[-1])
        if rest or group not in (32, 64, 128):
            raise ValueError(f"{pv.shape[-1] * 2} weights under {sv.shape[-1]} scales: groups of "
                             "32, 64 or 128 are supported")
        views = [readable("Weights.from_int4", "packed", packed),
                 readable("Weights.from_int4", "scales", scales)]
        return cls(Matrix(f"int4_g{group}", pv.shape[:-2], pv.shape[-2], pv.shape[-1] * 2,
                          [plane(v) for v in views], 0, 0, pv.device,  # type: ignore[misc]
                          [v.hold() for v in views], ()), context)

    @classmethod
    def from_gguf(cls, path: Any, tensor: str, context: Optional[Context] = None) -> "Weights":
        """A tensor of a GGUF (or safetensors) file, mapped in place: nothing is read before it is
        needed. Dimensions beyond the last two are experts, flat."""
        from ._file import File

        return File(path).weights(tensor, context=context)

    @classmethod
    def from_blocks(cls, format: str, data: Any, n_rows: int, n_cols: int,
                    context: Optional[Context] = None) -> "Weights":
        """GGUF blocks in memory: `data` is a dense array of the bytes of E * n_rows rows."""
        return cls(blocks_matrix(format, data, n_rows, n_cols), context)

    @classmethod
    def from_array(cls, w: Any, context: Optional[Context] = None) -> "Weights":
        """Unquantised weights [..., N, K], float32, float16 or bfloat16."""
        v = readable("Weights.from_array", "w", w)
        if v.dtype not in SHORT or len(v.shape) < 2:
            raise ValueError("weights are float32, float16 or bfloat16 [..., N, K], got "
                             f"{v.dtype} of shape {v.shape}")
        return cls(Matrix(SHORT[v.dtype], v.shape[:-2], v.shape[-2], v.shape[-1],
                          [plane(v)], 0, 0, v.device, v.hold(), ()),  # type: ignore[list-item]
                   context)

    @classmethod
    def quantize(cls, w: Any, format: str, importance: Any = None,
                 context: Optional[Context] = None) -> "Weights":
        """Rounds w [..., N, K] (float32, float16, bfloat16) to any format of `gqmm.formats()`.
        importance: float32 [K], the weight of each column's squared error (GGUF K-quants).
        On CUDA the formats that search for their scales are quantised by the CPU and copied."""
        v = readable("Weights.quantize", "w", w)
        if len(v.shape) < 2 or 0 in v.shape:
            raise ValueError(f"weights to quantise are [..., N, K] and not empty, got {v.shape}")
        need = _abi.row_bytes(format, v.shape[-1])
        if v.device is not None:
            frame = frame_of(v.owner)
            arrays = [frame.empty(v.shape[:-1] + (n,), "uint8", v.device)[0] for n in need]
            try:
                run_quantize(context or context_of(v.device, frame), frame, format, v, arrays,
                             importance)
                return cls.from_planes(format, arrays, v.shape[-1], context)
            except _abi.Error as why:
                if why.status != _UNSUPPORTED:
                    raise
            searched = cls.quantize(frame.to_host(v.owner), format, importance)
            return searched.to(device_name(v.device), v.owner)
        arrays = [np.empty(v.shape[:-1] + (n,), np.uint8) for n in need]
        run_quantize(context or any_context(None), NUMPY, format, v, arrays, importance)
        return cls.from_planes(format, arrays, v.shape[-1], context)

    @classmethod
    def from_planes(cls, format: str, planes: Sequence[Any], n_cols: int,
                    context: Optional[Context] = None) -> "Weights":
        """The planes of any format as bytes: uint8 [..., N, bytes of a row] each, in the order of
        `gqmm.format_info(format)`: codes or blocks, scales, biases."""
        need = _abi.row_bytes(format, n_cols)
        views = [readable("Weights.from_planes", f"plane {i}", p) for i, p in enumerate(planes)]
        if len(views) != len(need):
            raise ValueError(f"{format} has {len(need)} planes, got {len(views)}")
        for i, (v, n) in enumerate(zip(views, need)):
            if v.itemsize != 1 or len(v.shape) < 2 or v.shape[-1] != n:
                raise ValueError(f"plane {i} of {format} with {n_cols} columns is bytes "
                                 f"[..., N, {n}], got {v.dtype} of shape {v.shape}")
            if v.shape[:-1] != views[0].shape[:-1]:
                raise ValueError(f"plane {i} has shape {v.shape}, plane 0 {views[0].shape}")
        batch, rows = views[0].shape[:-2], views[0].shape[-2]
        return cls(Matrix(format, batch, rows, n_cols,
                          [plane(v) for v in views], 0, 0, views[0].device,  # type: ignore[misc]
                          [v.hold() for v in views], ()), context)

    # ------------------------------------------------------------ facts

    @property
    def format(self) -> str:
        return self._matrix.format

    @property
    def batch(self) -> Tuple[int, ...]:
        """The leading dimensions that the weights were given with."""
        return self._matrix.batch

    @property
    def n_experts(self) -> int:
        n = 1
        for d in self._matrix.batch:
            n *= d
        return n

    @property
    def shape(self) -> Tuple[int, int, int]:
        """(E, N, K)."""
        return self.n_experts, self._matrix.rows, self._matrix.cols

    @property
    def nbytes(self) -> int:
        m = self._matrix
        return sum(_abi.row_bytes(m.format, m.cols)) * m.rows * self.n_experts

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(_abi.row_bytes(self.format, self._matrix.cols)) / self._matrix.cols

    @property
    def isa(self) -> str:
        return _lib.gqmm_weights_isa(self._handle).decode()

    @property
    def device(self) -> str:
        return device_name(self._matrix.device)

    def __repr__(self) -> str:
        e, n, k = self.shape
        return (f"<gqmm.Weights {self.format} [{e}, {n}, {k}] {self.bits_per_weight:g} bits per "
                f"weight, {size_text(self.nbytes)}, {self.device}, {self.isa}>")

    # ------------------------------------------------------------ doing

    def dequantize(self, dtype: Any = "float32", like: Any = None) -> Any:
        """[*batch, N, K] in float32, float16 or bfloat16: of the kind of `like`; without it
        numpy's, on CUDA that of the arrays that the weights were made of."""
        m = self._matrix
        frame = frame_of(like) if like is not None else self._frame()
        name = dtype_name(dtype)
        y, at = frame.empty(m.batch + (m.rows, m.cols), name, m.device)
        (self._context or context_of(m.device, frame))._call("gqmm_dequantize", _abi.new(
            "gqmm_dequantize_desc", y_type=_abi.TYPES[name], w=self._handle, first_row=0,
            n_rows=self.n_experts * m.rows, y=at), frame)
        return frame.finish(y)

    def _frame(self) -> Any:
        """Of arrays on the weights' device: theirs, or torch's where they do not say."""
        if self._matrix.device is None:
            return NUMPY
        held = self._matrix.owner
        held = held[0] if isinstance(held, list) else held
        held = held[0] if isinstance(held, tuple) else held
        try:
            return frame_of(held)
        except TypeError:
            return frame_named("torch")

    def to(self, device: Any, like: Any = None) -> "Weights":
        """A copy on another device ("cpu", "cuda", "cuda:1", a torch.device), as torch's memory
        there or, where `like` is a CuPy array, CuPy's; these weights if they lie there already."""
        m, index = self._matrix, device_index(device)
        if index == m.device:
            return self
        frame = frame_of(like) if like is not None else self._frame()
        if index is None:
            frame = NUMPY
        elif frame is NUMPY:
            frame = frame_named("torch")
        e = self.n_experts
        rows = [(at, (e, m.rows, n), (step or row * m.rows, row)) for (at, row, step), n in
                zip(m.planes, _abi.row_bytes(m.format, m.cols))]
        if m.global_at:
            n = e if m.global_stride else 1
            rows.append((m.global_at, (1, n, 4), (4 * n, 4)))
        views = [moved(*r, (self._frame(), m.device), (frame, index)) for r in rows]
        planes = [(v.at, v.shape[2], v.shape[1] * v.shape[2]) for v in views[:len(m.planes)]]
        return Weights(m._replace(planes=planes, device=index, owner=[v.hold() for v in views],
                                  global_at=views[-1].at if m.global_at else 0))

    def repack(self, format: str) -> "Weights":
        """GGUF blocks as MLX planes, see gqmm_repack in gqmm.h: a copy, made by the CPU."""
        m = self._matrix
        if m.device is not None:
            return self.to("cpu").repack(format).to(self.device)
        arrays = [np.empty(m.batch + (m.rows, n), np.uint8)
                  for n in _abi.row_bytes(format, m.cols)]
        desc = _abi.new("gqmm_repack_desc", w=self._handle, format=format.encode())
        for i, a in enumerate(arrays):
            desc.plane[i] = a.ctypes.data
        (self._context or any_context(None))._call("gqmm_repack", desc)
        return Weights.from_planes(format, arrays, m.cols, self._context)


def run_quantize(context: Context, frame: Any, format: str, v: Any, arrays: List[Any],
                 importance: Any = None, global_at: int = 0) -> None:
    """gqmm_quantize of all rows of a view (as readable() gives it) into dense arrays of planes."""
    at, row, expert = plane(v)  # type: ignore[misc]
    rows, cols = v.shape[-2:]
    experts = v.size // (rows * cols)
    if v.dtype not in _abi.TYPES:
        raise ValueError(f"only float32, float16 and bfloat16 can be quantised, got {v.dtype}")
    if context._device != v.device:
        raise ValueError(f"what is quantised lies on {device_name(v.device)}, but the context is "
                         f"of {context.device}")
    if row < 0 or row % v.itemsize or at % v.itemsize:
        v = view(frame_of(v.owner).dense(v.owner))
        at, row, expert = plane(v)  # type: ignore[misc]
    step = expert if experts > 1 else rows * row
    # Dense experts are one tall matrix; others go one by one.
    calls = [(0, rows * experts)] if step == rows * row else [(e, rows) for e in range(experts)]
    weight = None
    if importance is not None:
        here = frame_of(importance).to_host(importance)
        weight = np.ascontiguousarray(view(here).numpy(), np.float32)
        if weight.shape != (cols,):
            raise ValueError(f"importance must have shape ({cols},), got {weight.shape}")
    for e, n in calls:
        desc = _abi.new("gqmm_quantize_desc", x_type=_abi.TYPES[v.dtype], format=format.encode(),
                        x=at + e * step, n_rows=n, n_cols=cols, x_row_stride=row // v.itemsize,
                        importance=None if weight is None else weight.ctypes.data,
                        global_scale=global_at or None)
        for i, a in enumerate(arrays):
            to = frame_of(a).view(a)
            desc.plane[i] = to.at + e * rows * (to.size * to.itemsize // (rows * experts))
        context._call("gqmm_quantize", desc, frame)


def size_text(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} GiB"


def as_weights(a: Any, context: Optional[Context] = None) -> Weights:
    """Weights as they are; a float array [..., N, K] as unquantised weights."""
    return a if isinstance(a, Weights) else Weights.from_array(a, context)
