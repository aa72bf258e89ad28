# SPDX-License-Identifier: MIT
"""Writes the seed corpora: make_seeds.py [folder]. One small file for each feature of the formats."""

import json
import pathlib
import struct
import sys


def text(s):
    b = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(b)) + b


CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


def value(t, v):
    return text(v) if t == 8 else struct.pack("<" + CODES[t], v)


def key(name, t, v):
    return text(name) + struct.pack("<I", t) + value(t, v)


def array(name, t, items):
    return text(name) + struct.pack("<IIQ", 9, t, len(items)) + b"".join(value(t, v) for v in items)


def gguf(keys=(), tensors=(), version=3, align=32, cut=None):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys)
    data = b""
    for name, dims, kind, n in tensors:
        data += b"\0" * (-len(data) % align)
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}q", *dims)
        head += struct.pack("<IQ", kind, len(data))
        data += bytes(i & 255 for i in range(n))
    file = head + b"\0" * (-len(head) % align) + data
    return file[:cut]


def safetensors(header, data=b"", pad=b""):
    h = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(h) + len(pad)) + h + pad + data


def gguf_seeds():
    yield "empty", gguf()
    yield "v2", gguf([key("a", 4, 7)], version=2)
    yield "v1", gguf(version=1)
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    for t in CODES:
        yield f"value{t}", gguf([key("k", t, 1)])
        yield f"array{t}", gguf([array("k", t, [1, 0, 1])])
    yield "string", gguf([key("general.name", 8, "tiny"), key("empty", 8, "")])
    yield "strings", gguf([array("tokens", 8, ["a", "", "bcd", "\u0120x"]), array("none", 8, [])])
    yield "align64", gguf([key("general.alignment", 4, 64)], [("x", [4], 0, 16)], align=64)
    yield "align3", gguf([key("general.alignment", 4, 3)])
    yield "two", gguf([], [("x", [4], 0, 16), ("y", [2, 3], 1, 12)])
    yield "dims", gguf([], [("s", [], 0, 4), ("z", [0, 2], 0, 0), ("d", [1, 1, 1, 1], 30, 2)])
    blocks = [(2, 32, 18), (8, 32, 34), (12, 256, 144), (14, 256, 210), (39, 32, 17), (40, 64, 36)]
    yield "blocks", gguf([], [(f"t{i}", [k], i, n) for i, k, n in blocks])
    yield "others", gguf([], [("iq2", [256], 16, 66), ("i32", [3], 26, 12), ("new", [8], 99, 8)])
    yield "cut", gguf([key("a", 4, 7)], [("x", [4], 0, 16)], cut=-3)
    yield "same", gguf([key("a", 4, 7), key("a", 4, 7)])


def safetensors_seeds():
    def t(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    yield "empty", safetensors({})
    yield "one", safetensors({"w": t("F32", [2], 0, 8)}, b"12345678")
    yield "three", safetensors(
        {"a": t("BF16", [1, 2], 0, 4), "b": t("U32", [2, 1], 4, 12), "c": t("F16", [], 12, 14)}, bytes(14)
    )
    yield "meta", safetensors({"__metadata__": {"format": "mlx", "\u00e9": ""}}, pad=b"   ")
    yield "zero", safetensors({"z": t("F64", [0, 3], 0, 0), "x": t("I8", [3], 0, 3)}, b"abc")
    yield "bits", safetensors({"f": t("F4", [4], 0, 2), "g": t("F6_E2M3", [4], 2, 5)}, bytes(5))
    yield "gap", safetensors({"x": t("U8", [1], 1, 2)}, bytes(2))
    yield "escape", safetensors(rb'{"\u0061\n":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}', b"\1")
    yield "twice", safetensors(rb'{"a":{},"a":{}}')
    yield "huge", safetensors({"x": t("U8", [2**40, 2**40], 0, 2**62)})
    yield "deep", safetensors(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}")
    yield "no-dtype", safetensors({"x": {}})
    yield "dtype", safetensors({"x": t("F7", [1], 0, 1)}, b"x")
    yield "no-shape", safetensors({"x": {"dtype": "U8", "data_offsets": [0, 1]}}, b"x")
    yield "real", safetensors({"x": t("U8", [1.0], 0, 1)}, b"x")
    yield "negative", safetensors({"x": t("U8", [-1], -1, 0)})
    yield "order", safetensors({"x": t("U8", [1], 1, 0)}, b"x")
    yield "mismatch", safetensors({"x": t("F32", [2], 0, 4)}, bytes(4))
    yield "half", safetensors({"x": t("F4", [3], 0, 1)}, b"x")
    yield "overlap", safetensors({"x": t("U8", [2], 0, 2), "y": t("U8", [2], 1, 3)}, bytes(3))
    yield "rest", safetensors({"x": t("U8", [1], 0, 1)}, bytes(2))
    yield "metadata", safetensors({"__metadata__": {"a": 1}})
    yield "list", safetensors(b"{} []")
    yield "number", safetensors(b'{"a":123456789012345678901234567890}')
    yield "utf8", safetensors(b'{"\xff":1}')
    yield "length", struct.pack("<Q", 1 << 63) + b"{}"
    yield "all", safetensors(
        {d: t(d, [8], i * 64, i * 64 + 64) for i, d in enumerate(("F64", "I64", "U64", "C64"))}, bytes(256)
    )
    yield "nine", safetensors({"x": t("U8", [1] * 9, 0, 1)}, b"x")


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corpus")
    for folder, seeds in (("gguf", gguf_seeds()), ("safetensors", safetensors_seeds())):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, content in seeds:
            (root / folder / name).write_bytes(content)


main()
