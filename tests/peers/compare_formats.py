# SPDX-License-Identifier: MIT
"""gqmm against independent programs, on fresh random data.

    python tests/peers/compare_formats.py build/libgqmm.so [--seed N]

Decoding: every GGUF type of the gguf package, every mode of MLX, bit for bit. Quantising: their
bytes where both round, and ggml's squared error (llama-cpp-python) where both search.
"""

import argparse
import ctypes as C
import sys
import time
from pathlib import Path

import numpy as np

from gqmm_ctypes import Gqmm, Report, bf16_to_f32, f32_to_bf16

GGUF = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
        "iq4_xs", "mxfp4", "nvfp4"]
SEARCHED = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "nvfp4"]


def same_values(a, b):
    """Bit for bit, except that zeros of both signs and all NaN are one value each."""
    same = (a.view(np.uint32) == b.view(np.uint32)) | (a == b) | (np.isnan(a) & np.isnan(b))
    return int((~same).sum())


def scaled_rows(rng, n_rows, n_cols):
    scale = np.exp(rng.standard_normal((n_rows, 1)))
    return (rng.standard_normal((n_rows, n_cols)) * scale).astype(np.float32)


def compare_gguf(lib, ctx, rng, report):
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        report.skip("gguf", "no gguf package")
        return
    for name in GGUF + ["bf16"]:
        kind = GGMLQuantizationType[name.upper()]
        row_bytes = lib.row_bytes(name, 1024)[0]
        raw = rng.integers(0, 256, (64, row_bytes), dtype=np.uint8)
        with np.errstate(all="ignore"):
            want = quants.dequantize(raw, kind).astype(np.float32)
        bad = same_values(lib.dequantize(ctx, name, [raw], 64, 1024), want)
        report.check(f"gguf_decode_{name}", bad == 0, f"{bad} values differ" if bad else "")
        x = scaled_rows(rng, 64, 1024)
        x[3, :64] = 0
        try:
            want = quants.quantize(x, kind)
        except NotImplementedError:
            continue
        bad = int((lib.quantize(ctx, name, x)[0] != want).sum())
        report.check(f"gguf_bytes_{name}", bad == 0, f"{bad} bytes differ" if bad else "")


class Mlx:
    """mlx.core with arrays as numpy, bf16 as uint16."""

    def __init__(self):
        import mlx.core as mx

        self.mx = mx
        mx.set_default_device(mx.cpu)
        self.types = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}

    def array(self, x, dtype):
        if dtype == "bf16" and x.dtype == np.uint16:
            return self.mx.array(x).view(self.mx.bfloat16)
        return self.mx.array(x).astype(self.types[dtype])

    def raw(self, a):
        if a.dtype == self.mx.bfloat16:
            a = a.view(self.mx.uint16)
        out = np.array(a)
        return out.view(np.uint8).reshape(out.shape[0], -1)


def mlx_modes():
    for dtype in ("f32", "f16", "bf16"):
        for bits in (2, 3, 4, 5, 6, 8):
            for group in (32, 64, 128):
                yield f"affine{bits}_g{group}_{dtype}", dtype, dict(
                    mode="affine", bits=bits, group_size=group)
        for mode, bits, group in (("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)):
            yield f"mlx_{mode}", dtype, dict(mode=mode, bits=bits, group_size=group)


def mlx_decode(mlx, lib, ctx, rng, name, arguments, global_scale):
    """Random bytes through both; scales are finite floats for affine, any byte otherwise."""
    mx, sizes = mlx.mx, lib.row_bytes(name, 512)
    planes = [rng.integers(0, 256, (16, b), dtype=np.uint8) for b in sizes]
    codes = mx.array(planes[0].view(np.uint32))
    if arguments["mode"] == "affine":
        shape = (16, 512 // arguments["group_size"])
        planes[1:] = [rng.standard_normal(shape).astype(np.float32).view(np.uint8)
                      for _ in range(2)]
        scales, biases = (mx.array(p.view(np.float32)) for p in planes[1:])
        want = mx.dequantize(codes, scales, biases, **arguments)
    else:
        extra = {} if global_scale is None else {"global_scale": mx.array(global_scale)}
        want = mx.dequantize(codes, mx.array(planes[1]), dtype=mx.float32, **arguments, **extra)
    return same_values(lib.dequantize(ctx, name, planes, 16, 512, global_scale=global_scale),
                       np.array(want))


def compare_mlx(lib, ctx, rng, report):
    try:
        mlx = Mlx()
    except ImportError:
        report.skip("mlx", "no mlx package")
        return
    for name, dtype, arguments in mlx_modes():
        x = scaled_rows(rng, 32, 512)
        x[3, :128] = 0
        x[5, :128] = np.abs(x[5, :128])
        x[6, :128] = 1.5
        x = {"f32": x, "f16": x.astype(np.float16), "bf16": f32_to_bf16(x)}[dtype]
        for amax in (None, np.float32(7.25)) if name == "mlx_nvfp4" else (None,):
            label = name if arguments["mode"] == "affine" else f"{name}_{dtype}"
            label += "" if amax is None else "_global"
            if dtype == "f32":
                bad = mlx_decode(mlx, lib, ctx, rng, name, arguments, amax)
                report.check(f"mlx_decode_{label}", bad == 0, f"{bad} differ" if bad else "")
            extra = {} if amax is None else {"global_scale": mlx.mx.array(amax)}
            want = mlx.mx.quantize(mlx.array(x, dtype), **arguments, **extra)
            got = lib.quantize(ctx, name, x, global_scale=amax)
            bad = [int((g != mlx.raw(w)).sum()) for g, w in zip(got, want)]
            report.check(f"mlx_bytes_{label}", not any(bad),
                         f"bytes that differ, by plane: {bad}" if any(bad) else "")


class Ggml:
    def __init__(self):
        import importlib.util

        home = Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
        self.dll = C.CDLL(str(next(home.glob("libggml-base.so"))))
        self.dll.ggml_quantize_chunk.restype = C.c_size_t

    def quantize(self, kind, x, row_bytes, importance=None):
        out = np.zeros((x.shape[0], row_bytes), np.uint8)
        weight = None if importance is None else importance.ctypes.data_as(C.c_void_p)
        self.dll.ggml_quantize_chunk(
            C.c_int(kind), x.ctypes.data_as(C.c_void_p), out.ctypes.data_as(C.c_void_p),
            C.c_int64(0), C.c_int64(x.shape[0]), C.c_int64(x.shape[1]), weight)
        return out


def nmse(x, y, weight=1.0):
    e = (x.astype(np.float64) - y) ** 2 * weight
    return float(e.sum() / (x.astype(np.float64) ** 2 * weight).sum())


def compare_ggml(lib, ctx, rng, report):
    try:
        ggml = Ggml()
    except (AttributeError, ImportError, OSError, StopIteration):
        report.skip("ggml", "no llama-cpp-python")
        return
    x = scaled_rows(rng, 1024, 512)
    weight = np.exp(rng.standard_normal(512)).astype(np.float32)
    for name in SEARCHED:
        for label, importance in (("", None), ("_importance", weight)):
            if label and name == "nvfp4":
                continue  # ggml ignores the weights there
            row_bytes = lib.row_bytes(name, 512)[0]
            start = time.perf_counter()
            ours = lib.quantize(ctx, name, x, importance)[0]
            middle = time.perf_counter()
            theirs = ggml.quantize(lib.format(name).gguf_type, x, row_bytes, importance)
            end = time.perf_counter()
            scores = [nmse(x, lib.dequantize(ctx, name, [b], *x.shape),
                           1.0 if importance is None else importance) for b in (ours, theirs)]
            speeds = [x.size / 1e6 / s for s in (middle - start, end - middle)]
            report.check(f"ggml_error_{name}{label}", scores[0] <= scores[1],
                         "ours {:.5g} ({:.1f} M/s), ggml {:.5g} ({:.1f} M/s)".format(
                             scores[0], speeds[0], scores[1], speeds[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    rng = np.random.default_rng(options.seed)
    lib = Gqmm(options.library)
    ctx = lib.context(n_threads=1)
    report = Report("compare_formats")
    compare_gguf(lib, ctx, rng, report)
    compare_mlx(lib, ctx, rng, report)
    compare_ggml(lib, ctx, rng, report)
    lib.destroy_context(ctx)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
