# SPDX-License-Identifier: MIT
"""What the C headers say, for ctypes: structs and prototypes are read from their text, so that they
cannot drift from it. Needs nothing of the package; tests/peers/gqmm_ctypes.py reads it too."""

from __future__ import annotations

import ctypes as C
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

SCALARS: Dict[str, Any] = {
    "void": None, "char": C.c_char, "float": C.c_float, "double": C.c_double,
    "size_t": C.c_size_t, "int32_t": C.c_int32, "uint32_t": C.c_uint32, "int64_t": C.c_int64,
    "uint64_t": C.c_uint64, "uint8_t": C.c_uint8, "gqmm_status": C.c_int32,
}


def headers(package: Path) -> str:
    """The text of both headers without comments and preprocessor lines."""
    folder = package / "include"
    if not folder.is_dir():  # an unpacked source tree
        folder = package.parents[1] / "include"
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
