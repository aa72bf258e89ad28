# SPDX-License-Identifier: MIT
"""GGUF and safetensors files, through the readers of the C library: mapped, and trusted in
nothing."""

from __future__ import annotations

import ctypes as C
import json
import os
import weakref
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from . import _abi
from ._context import Context
from ._frames import BF16
from ._modes import Matrix
from ._weights import Weights, size_text

_lib = _abi.lib
_PLAIN = {
    "F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "U8": "u1", "BOOL": "?", "I16": "<i2",
    "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8", "BF16": "<u2",
}


class Tensor(NamedTuple):
    """One entry of a file. shape: outermost dimension first, as numpy has it. format: a name of
    gqmm.formats(), None for a type that is not computed with. type: the file's own name of it."""

    name: str
    format: Optional[str]
    type: str
    shape: Tuple[int, ...]
    nbytes: int
    offset: int


class File(Mapping[str, Any]):
    """A mapping from tensor names to what is in a GGUF or safetensors file, which is mapped into
    memory: nothing is copied or read before it is needed.

    file[name] is gqmm.Weights for tensors of quantised formats, a read-only numpy array for plain
    numbers (bfloat16 through ml_dtypes, as uint16 without it). `weights(name)` makes Weights of
    any tensor that can be computed with, and of MLX's name.weight, name.scales, name.biases.
    What was taken out keeps the file open. Raises gqmm.Error with the C library's message (and
    `offset`, the byte at fault) for a broken file.
    """

    def __init__(self, path: Any):
        self.path = os.fspath(path)
        out = C.c_void_p()
        _abi.call("gqmm_file_open", os.fsencode(self.path), 0, None, C.byref(out))
        self._handle: int = out.value  # type: ignore[assignment]
        weakref.finalize(self, _lib.gqmm_file_close, self._handle)
        self.kind: str = _lib.gqmm_file_kind(self._handle).decode()
        self.tensors: Dict[str, Tensor] = {}
        self._data: Dict[str, int] = {}
        for i in range(_lib.gqmm_file_tensor_count(self._handle)):
            t = _abi.STRUCTS["gqmm_tensor"].from_address(_lib.gqmm_file_tensor_at(self._handle, i))
            name = t.name.decode("utf-8", "surrogateescape")
            self.tensors[name] = Tensor(
                name, t.format.decode() if t.format else None, t.type_name.decode(),
                tuple(reversed(t.dims[:t.n_dims])), t.n_bytes, t.offset)
            self._data[name] = t.data or 0

    def __getitem__(self, name: str) -> Any:
        t = self.tensors[name]
        if t.format is not None and t.type not in _PLAIN:
            return self.weights(name)
        return self.array(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def array(self, name: str) -> np.ndarray:
        """A tensor as a read-only numpy array over the file: plain numbers in their shape, other
        types as uint8 [nbytes]."""
        t = self.tensors[name]
        plain = _PLAIN.get(t.type)
        bytes_ = (C.c_uint8 * t.nbytes).from_address(self._data[name])
        bytes_._file = self  # type: ignore[attr-defined]  # the array's base keeps the file open
        out: np.ndarray = np.frombuffer(bytes_, np.uint8)  # type: ignore[call-overload]
        if plain:
            out = out.view(plain).reshape(t.shape)
            if t.type == "BF16" and BF16 is not None:
                out = out.view(BF16)
        out.flags.writeable = False
        return out

    def weights(self, name: str, group_size: Optional[int] = None, bits: Optional[int] = None,
                mode: Optional[str] = None, context: Optional[Context] = None) -> Weights:
        """Weights over the file. For MLX's triple of safetensors, `name` is without ".weight";
        group_size, bits and mode are taken from config.json beside the file if it has them."""
        t = self.tensors.get(name)
        if t is None or (self.kind == "safetensors" and t.type == "U32"):
            return self._mlx(name[:-7] if name.endswith(".weight") else name, group_size, bits,
                             mode, context)
        if t.format is None:
            raise ValueError(f"{self.path}: tensor {name} is {t.type}, no format of gqmm")
        if not t.shape or not t.nbytes:
            raise ValueError(f"{self.path}: tensor {name} of shape {t.shape} is no matrix")
        rows = t.shape[-2] if len(t.shape) > 1 else 1
        bytes_of_row = _abi.row_bytes(t.format, t.shape[-1])[0]
        return Weights(Matrix(t.format, t.shape[:-2], rows, t.shape[-1],
                              [(self._data[name], bytes_of_row, bytes_of_row * rows)], 0, 0, None,
                              self, ()), context)

    def _mlx(self, stem: str, group_size: Optional[int], bits: Optional[int], mode: Optional[str],
             context: Optional[Context]) -> Weights:
        names = [f"{stem}.{part}" for part in ("weight", "scales", "biases")]
        if names[0] not in self.tensors or names[1] not in self.tensors:
            raise KeyError(f"{self.path}: there is neither {stem} nor {names[0]} with {names[1]}")
        told = self._told(stem)
        parts: List[Any] = [self.array(n) if n in self.tensors else None for n in names]
        for i, part in enumerate(parts):
            if part is not None and part.dtype == np.uint16:
                raise TypeError(f"{names[i]} is bfloat16: install ml_dtypes to read it")
        return Weights.from_mlx(
            parts[0], parts[1], parts[2], group_size=group_size or told.get("group_size"),
            bits=bits or told.get("bits"), mode=mode or told.get("mode", "affine"),
            context=context)

    def _told(self, stem: str) -> Dict[str, Any]:
        """What config.json says about the quantisation of one module, as mlx-lm writes it."""
        config = os.path.join(os.path.dirname(self.path) or ".", "config.json")
        if not os.path.exists(config):
            return {}
        with open(config, encoding="utf-8") as f:
            read = json.load(f)
        told = read.get("quantization") if isinstance(read, dict) else None
        if not isinstance(told, dict):
            return {}
        of_module = told.get(stem)
        return of_module if isinstance(of_module, dict) else told

    @property
    def metadata(self) -> Dict[str, Any]:
        """The key-value entries: numbers, bools, strings, lists of them."""
        out = {}
        for i in range(_lib.gqmm_file_meta_count(self._handle)):
            at = _lib.gqmm_file_meta_at(self._handle, i)
            meta = _abi.STRUCTS["gqmm_meta"].from_address(at)
            key = meta.key.decode("utf-8", "surrogateescape")
            item = _ITEMS.get(meta.item_kind)
            if item is None:
                continue
            values = [item(self._handle, at, j) for j in range(meta.n)]
            out[key] = values if meta.kind == 6 else values[0]
        return out

    def __repr__(self) -> str:
        total = sum(t.nbytes for t in self.tensors.values())
        return f"<gqmm.File {self.path} {self.kind}, {len(self)} tensors, {size_text(total)}>"


def _int(file: int, meta: int, i: int) -> int:
    value = C.c_int64()
    if not _lib.gqmm_meta_int(file, meta, i, C.addressof(value)):
        m = _abi.STRUCTS["gqmm_meta"].from_address(meta)  # beyond 2^63
        return C.c_uint64.from_address(m.raw + 8 * i).value
    return value.value


def _float(file: int, meta: int, i: int) -> float:
    value = C.c_double()
    _lib.gqmm_meta_float(file, meta, i, C.addressof(value))
    return value.value


def _string(file: int, meta: int, i: int) -> str:
    text, length = C.c_void_p(), C.c_size_t()
    _lib.gqmm_meta_string(file, meta, i, C.addressof(text), C.addressof(length))
    return C.string_at(text.value or 0, length.value).decode("utf-8", "replace") if length else ""


_ITEMS = {1: _int, 2: _int, 3: _float, 4: lambda f, m, i: bool(_int(f, m, i)), 5: _string}


def load(path: Any) -> File:
    """Opens a GGUF or safetensors file, told apart by its first bytes: see gqmm.File."""
    return File(path)
