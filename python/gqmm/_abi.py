# SPDX-License-Identifier: MIT
"""The C library for ctypes. Structs and prototypes are read from the headers that the library was
built with, so they cannot drift from it; no part of the package is compiled against a Python."""

from __future__ import annotations

import ctypes as C
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

HERE = Path(os.path.abspath(__file__)).parent
SCALARS: Dict[str, Any] = {
    "void": None, "char": C.c_char, "float": C.c_float, "double": C.c_double,
    "size_t": C.c_size_t, "int32_t": C.c_int32, "uint32_t": C.c_uint32, "int64_t": C.c_int64,
    "uint64_t": C.c_uint64, "uint8_t": C.c_uint8, "gqmm_status": C.c_int32,
}
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


def headers() -> str:
    """The text of both headers without comments and preprocessor lines."""
    folder = HERE / "include"
    if not folder.is_dir():  # an unpacked source tree
        folder = HERE.parents[1] / "include"
    text = "".join((folder / name).read_text() for name in ("gqmm.h", "gqmm-model.h"))
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    return re.sub(r"^\s*#.*?(?<!\\)$", " ", text, flags=re.S | re.M)


def parse_field(text: str, structs: Dict[str, Any]) -> List[Tuple[str, Any]]:
    """One declaration without its semicolon, as (name, ctypes type) for each of its names."""
    if "(*" in text:
        return [(re.search(r"\(\*(\w+)\)", text)[1], C.c_void_p)]  # type: ignore[index]
    base, rest = re.match(  # type: ignore[union-attr]
        r"(?:const\s+|struct\s+)*(\w+)\b\s*(?:const\b)?(.*)", text, re.S).groups()
    fields = []
    for item in rest.split(","):
        stars, name, count = re.match(  # type: ignore[union-attr]
            r"\s*(\**)\s*(\w+)\s*(?:\[(\w+)\])?\s*$", item).groups()
        if stars:
            kind = C.c_char_p if base == "char" else C.c_void_p
        else:
            kind = SCALARS.get(base) or structs[base]
        fields.append((name, kind * int(count) if count else kind))
    return fields


def parse_structs(text: str) -> Dict[str, Any]:
    structs: Dict[str, Any] = {}
    for tag, body in re.findall(r"typedef struct (\w+) \{(.*?)\}\s*\w+;", text, re.S):
        fields: List[Tuple[str, Any]] = []
        for declaration in body.split(";"):
            if declaration.strip():
                fields += parse_field(" ".join(declaration.split()), structs)
        structs[tag] = type(tag, (C.Structure,), {"_fields_": fields})
    return structs


def argument(text: str) -> Any:
    """Strings are only passed in const: `char *` is a buffer to write."""
    if "*" in text:
        return C.c_char_p if re.match(r"\s*const char \*\w*\s*$", text) else C.c_void_p
    return SCALARS[re.sub(r"const|struct", "", text).split()[0]]


def parse_functions(text: str) -> Dict[str, Tuple[Any, List[Any]]]:
    """Name to (result, arguments). Functions that take functions are left out: none is called."""
    found = {}
    for result, name, arguments in re.findall(
            r"GQMM_API\s+([\w\s]+?[\s*]+)(\w+)\(([^;]*)\);", text):
        if "(*" in arguments:
            continue
        words = [] if arguments.strip() == "void" else arguments.split(",")
        if "*" in result:
            base = re.sub(r"const|struct|\*", "", result).strip()
            kind = C.c_char_p if base == "char" else C.c_void_p
        else:
            kind = SCALARS[result.strip()]
        found[name] = (kind, [argument(" ".join(a.split())) for a in words])
    return found


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


_text = headers()
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
