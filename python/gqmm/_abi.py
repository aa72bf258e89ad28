# SPDX-License-Identifier: MIT
"""The C library for ctypes. Structs and prototypes are read from the headers that the library was
built with, see _header.py; no part of the package is compiled against a Python."""

from __future__ import annotations

import ctypes as C
import os
from pathlib import Path
from typing import Any, List

from ._header import headers, parse_functions, parse_structs

HERE = Path(os.path.abspath(__file__)).parent
F32, F16, BF16 = 0, 1, 2
TYPES = {"float32": F32, "float16": F16, "bfloat16": BF16}
PRECISIONS = {"exact": 0, "int8": 1}
SCORINGS = {"softmax": 0, "sigmoid": 1}
OPERATIONS = {"GATHER_QMM": 1, "QMM": 2, "MOE": 3}


class Error(RuntimeError):
    """What the C library reports. `status` is its number, `status_name` its name
    ("GQMM_E_FORMAT"), `offset` the byte of the file at fault, for readers of files."""

    def __init__(self, text: str, status: int = 0, status_name: str = "", offset: int = 0):
        super().__init__(text)
        self.status, self.status_name, self.offset = status, status_name, offset


class ArgumentError(Error, ValueError):
    """GQMM_E_ARG and GQMM_E_SHAPE: an argument does not fit."""


class RangeError(Error, IndexError):
    """GQMM_E_INDEX: an expert, row or token id is outside its range."""


class OutOfMemory(Error, MemoryError):
    """GQMM_E_NOMEM."""


CLASSES = {1: ArgumentError, 2: ArgumentError, 3: RangeError, 4: OutOfMemory}


def load() -> C.CDLL:
    """GQMM_LIBRARY names another build of the library, for work on gqmm itself."""
    path = os.environ.get("GQMM_LIBRARY") or str(HERE / "libgqmm.so")
    try:
        dll = C.CDLL(path)
    except OSError as why:
        raise ImportError(f"gqmm cannot load its C library: {why}") from None
    for name, (result, arguments) in FUNCTIONS.items():
        if hasattr(dll, name):
            getattr(dll, name).restype = result
            getattr(dll, name).argtypes = arguments
    return dll


_text = headers(HERE)
STRUCTS = parse_structs(_text)
FUNCTIONS = parse_functions(_text)
lib = load()
ErrorRecord = STRUCTS["gqmm_error"]


def new(struct: str, **fields: Any) -> Any:
    """A zeroed struct with its size stamped."""
    d = STRUCTS[struct]()
    d.struct_size = C.sizeof(d)
    for name, value in fields.items():
        setattr(d, name, value)
    return d


def error_of(record: Any) -> Error:
    status = record.status
    return CLASSES.get(status, Error)(
        record.text.decode("utf-8", "replace"), status, status_name(status), record.offset)


def status_name(status: int) -> str:
    return lib.gqmm_status_name(status).decode()


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns a status and takes the error last."""
    record = ErrorRecord()
    passed = [C.byref(a) if isinstance(a, C.Structure) else a for a in arguments]
    if getattr(lib, name)(*passed, C.byref(record)):
        raise error_of(record)


def format_info(name: str) -> Any:
    """The gqmm_format of this name. ValueError names those that exist."""
    found = lib.gqmm_format_find(name.encode())
    if not found:
        raise ValueError(f"format '{name}' is unknown; known are {', '.join(format_names())}")
    return STRUCTS["gqmm_format"].from_address(found)


def format_names() -> List[str]:
    out = []
    for i in range(lib.gqmm_format_count()):
        out.append(STRUCTS["gqmm_format"].from_address(lib.gqmm_format_at(i)).name.decode())
    return out


def row_bytes(name: str, cols: int) -> List[int]:
    """Bytes of one row of `cols` weights in each plane."""
    info = format_info(name)
    out = [lib.gqmm_format_row_bytes(C.addressof(info), p, cols) for p in range(info.n_planes)]
    if min(out) < 0:
        raise ValueError(f"rows of {cols} weights: {name} needs a multiple of {info.block_elems}")
    return out
