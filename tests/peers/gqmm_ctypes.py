# SPDX-License-Identifier: MIT
"""gqmm.h for ctypes: structs are read from the headers themselves, so they cannot drift from them.

    lib = Gqmm("build/libgqmm.so")
    d = lib.new("gqmm_quantize_desc", format=b"q4_k", n_rows=4, ...)
    lib.call("gqmm_quantize", ctx, d)          # raises GqmmError on a status other than 0

Array helpers at the bottom work on numpy arrays; bf16 travels as uint16.
"""

import ctypes as C
import importlib.util
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "gqmm"
F32, F16, BF16 = 0, 1, 2
EXACT, INT8 = 0, 1


class GqmmError(RuntimeError):
    def __init__(self, name, error):
        super().__init__(f"{name}: status {error.status}: {error.text.decode()}")
        self.status = error.status


def parsed_structs():
    """Name to ctypes.Structure class, for every struct that the headers define, by the Python
    package's parser; the package itself would load the library."""
    spec = importlib.util.spec_from_file_location("gqmm_header", PACKAGE / "_header.py")
    parser = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parser)
    return parser.parse_structs(parser.headers(PACKAGE))


STRUCTS = parsed_structs()


def address(value):
    """What a pointer field takes: an array's memory, or the value itself."""
    return value.ctypes.data if isinstance(value, np.ndarray) else value


class Gqmm:
    """The library. Objects it makes are plain addresses; nothing is freed behind your back."""

    POINTERS = ("gqmm_format_at", "gqmm_format_find", "gqmm_format_find_gguf",
                "gqmm_weights_format")
    STRINGS = ("gqmm_version", "gqmm_status_name", "gqmm_isa_at", "gqmm_kernel_isa",
               "gqmm_cpu_features", "gqmm_context_isa", "gqmm_weights_isa")

    def __init__(self, path):
        self.dll = C.CDLL(str(Path(path).resolve()))
        for name in self.POINTERS:
            self.typed(name, C.POINTER(STRUCTS["gqmm_format"]))
        for name in self.STRINGS:
            self.typed(name, C.c_char_p)
        self.typed("gqmm_format_row_bytes", C.c_int64)
        self.typed("gqmm_explain", C.c_size_t)

    def typed(self, name, result):
        if hasattr(self.dll, name):
            getattr(self.dll, name).restype = result

    def new(self, struct, **fields):
        d = STRUCTS[struct]()
        d.struct_size = C.sizeof(d)
        d.keep = list(fields.values())  # arrays live as long as the descriptor
        for name, value in fields.items():
            if isinstance(value, (list, tuple)):
                for i, item in enumerate(value):
                    getattr(d, name)[i] = address(item)
            else:
                setattr(d, name, address(value))
        return d

    def call(self, name, *arguments):
        error = STRUCTS["gqmm_error"]()
        passed = [C.byref(a) if isinstance(a, C.Structure) else a for a in arguments]
        if getattr(self.dll, name)(*passed, C.byref(error)) != 0:
            raise GqmmError(name, error)

    def context(self, **fields):
        out = C.c_void_p()
        self.call("gqmm_context_create", self.new("gqmm_context_desc", **fields), C.byref(out))
        return out

    def destroy_context(self, ctx):
        self.dll.gqmm_context_destroy(ctx)

    def formats(self):
        return [self.dll.gqmm_format_at(i).contents for i in range(self.dll.gqmm_format_count())]

    def format(self, name):
        found = self.dll.gqmm_format_find(name.encode())
        if not found:
            raise KeyError(name)
        return found.contents

    def row_bytes(self, name, k):
        f = self.format(name)
        return [self.dll.gqmm_format_row_bytes(C.byref(f), p, C.c_int64(k))
                for p in range(f.n_planes)]

    def weights(self, ctx, name, planes, n_rows, n_cols, n_experts=1, **fields):
        out = C.c_void_p()
        d = self.new("gqmm_weights_desc", format=name.encode(), n_experts=n_experts,
                     n_rows=n_rows, n_cols=n_cols, plane=planes, **fields)
        self.call("gqmm_weights_create", ctx, d, C.byref(out))
        return out

    def destroy_weights(self, weights):
        self.dll.gqmm_weights_destroy(weights)

    def dequantize(self, ctx, name, planes, n_rows, n_cols, y_type=F32, global_scale=None):
        """[n_rows, n_cols] in fp32 (f16, bf16: as they are stored) from byte planes."""
        extra = {} if global_scale is None else {
            "global_scale": np.array([global_scale], np.float32)}
        w = self.weights(ctx, name, planes, n_rows, n_cols, **extra)
        y = np.empty((n_rows, n_cols), NUMPY[y_type])
        try:
            self.call("gqmm_dequantize", ctx, self.new(
                "gqmm_dequantize_desc", y_type=y_type, w=w, first_row=0, n_rows=n_rows, y=y))
        finally:
            self.destroy_weights(w)
        return y

    def quantize(self, ctx, name, x, importance=None, global_scale=None):
        """Byte planes [n_rows, row bytes] of x [n_rows, n_cols]: float32, float16 or uint16."""
        x = np.ascontiguousarray(x)
        n_rows, n_cols = x.shape
        planes = [np.zeros((n_rows, b), np.uint8) for b in self.row_bytes(name, n_cols)]
        d = self.new("gqmm_quantize_desc", x_type=type_of(x), format=name.encode(), x=x,
                     n_rows=n_rows, n_cols=n_cols, plane=planes)
        if importance is not None:
            weight = np.ascontiguousarray(importance, np.float32)
            d.keep.append(weight)
            d.importance = address(weight)
        if global_scale is not None:
            amax = np.array([global_scale], np.float32)
            d.keep.append(amax)
            d.global_scale = address(amax)
        self.call("gqmm_quantize", ctx, d)
        return planes


NUMPY = {F32: np.float32, F16: np.float16, BF16: np.uint16}


def type_of(array):
    return {"float32": F32, "float16": F16, "uint16": BF16}[array.dtype.name]


def bf16_to_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class Report:
    """One line for each test, and the closing line that counts them."""

    def __init__(self, name):
        self.name, self.passed, self.failed, self.skipped = name, 0, 0, 0

    def check(self, test, good, why=""):
        if good:
            self.passed += 1
            print(f"ok {test}" + (f" ({why})" if why else ""))
        else:
            self.failed += 1
            print(f"FAIL {test}: {why}")

    def skip(self, test, reason):
        self.skipped += 1
        print(f"skip {test}: {reason}")

    def close(self):
        """Prints the totals; the exit status of the script."""
        print(f"{self.name}: {self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0
