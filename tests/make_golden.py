# SPDX-License-Identifier: MIT
"""Golden bytes for check_formats, made by the gguf and mlx packages (never by gqmm).

    python tests/make_golden.py [tests/golden]

A file, all little-endian:  "gqmmgold", name[24], u32 decode blocks, u32 quantise blocks,
u32 x type (0 f32, 1 f16, 2 bf16), f32 tensor amax (0: none); then
    the planes of the decode blocks, one after another;  their values in f32
    x of the quantise blocks in f32 (exact in the x type);  the planes that must come out
int4 has no package: its two formulas stand below in numpy.
"""

import struct
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType, quants

RNG = np.random.default_rng(20260806)
F32, F16, BF16 = 0, 1, 2

# Offsets of the f16 scales in a block, to keep most blocks finite.
GGUF = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82),
    "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,),
    "iq4_xs": (0,), "mxfp4": (), "nvfp4": (), "bf16": (),
}


def write(folder, label, name, planes, values, x=None, out=(), x_type=F32, amax=0.0):
    n_decode = planes[0].shape[0]
    n_quantize = 0 if x is None else out[0].shape[0]
    with open(folder / f"{label}.bin", "wb") as f:
        f.write(struct.pack("<8s24sIIIf", b"gqmmgold", name.encode(), n_decode, n_quantize, x_type,
                            amax))
        for array in [*planes, values.astype("<f4")]:
            f.write(np.ascontiguousarray(array).tobytes())
        if n_quantize:
            for array in [x.astype("<f4"), *out]:
                f.write(np.ascontiguousarray(array).tobytes())


def bf16_bits(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def rounded(x, x_type):
    if x_type == F16:
        return x.astype(np.float16).astype(np.float32)
    if x_type == BF16:
        return (bf16_bits(x).astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


def inputs(n_blocks, size):
    """Rows to quantise: zeros, a constant, one outlier, all positive, all negative, Gaussian."""
    x = RNG.standard_normal((n_blocks, size)) * np.exp(RNG.standard_normal((n_blocks, 1)))
    x[0] = 0
    x[1] = 0.75
    x[2, size // 2] = -100
    x[3] = np.abs(x[3])
    x[4] = -np.abs(x[4])
    x[5] = np.round(x[5] * 2) / 2  # many ties
    return x.astype(np.float32)


def gguf_files(folder):
    for name, scales in GGUF.items():
        kind = GGMLQuantizationType[name.upper()]
        block, size = quants.GGML_QUANT_SIZES[kind]
        n_blocks = 6 if block > 1 else 64
        raw = RNG.integers(0, 256, (n_blocks, size), dtype=np.uint8)
        raw[0], raw[1], raw[2] = 0, 255, 255
        for offset in scales:
            raw[2:, offset:offset + 2] = RNG.standard_normal((n_blocks - 2, 1)).astype(
                np.float16).view(np.uint8)
            raw[3, offset:offset + 2] = (0xFF, 0x7B)  # 65504
            raw[4, offset:offset + 2] = (0x01, 0x80)  # -2^-24
        with np.errstate(all="ignore"):
            values = quants.dequantize(raw, kind)
        x = inputs(8, block) if block > 1 else inputs(8, 8)
        try:
            out = quants.quantize(x, kind).reshape(-1, size)
        except NotImplementedError:
            x, out = None, None
        write(folder, name, name, [raw], values, x, [out])


def float_files(folder):
    for name, dtype in (("f32", "<f4"), ("f16", "<f2")):
        x = np.concatenate([inputs(6, 8).ravel(), [0.0, -0.0, 65504.0, 65520.0, 1e-7, 6e-8, -1e-5]])
        x = x.astype(np.float32)
        with np.errstate(over="ignore"):
            stored = x.astype(dtype)
        raw = stored.view(np.uint8).reshape(len(x), -1)
        write(folder, name, name, [raw], stored.astype(np.float32), x, [raw])


def to_mx(x, x_type):
    return mx.array(x).astype((mx.float32, mx.float16, mx.bfloat16)[x_type])


def raw_bytes(array):
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.array(array).view(np.uint8)


def affine_files(folder):
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for x_type, suffix in enumerate(("f32", "f16", "bf16")):
                how = dict(bits=bits, group_size=group)
                codes = RNG.integers(0, 256, (4, bits * group // 8), dtype=np.uint8)
                codes[0], codes[1] = 0, 255
                pair = [to_mx(RNG.standard_normal((4, 1)).astype(np.float32), x_type)
                        for _ in range(2)]
                # fp32 arithmetic: MLX itself would round to the scales' type after each step
                values = mx.dequantize(mx.array(codes.view(np.uint32)),
                                       *(p.astype(mx.float32) for p in pair), **how)
                x = rounded(inputs(7, group), x_type)
                out = [raw_bytes(a) for a in mx.quantize(to_mx(x, x_type), **how)]
                name = f"affine{bits}_g{group}_{suffix}"
                write(folder, name, name, [codes, *(raw_bytes(p) for p in pair)],
                      np.array(values), x, out, x_type)


def mlx_fp_files(folder):
    for mode, group, size in (("mxfp4", 32, 16), ("mxfp8", 32, 32), ("nvfp4", 16, 8)):
        for x_type, suffix in ((F32, ""), (F16, "_f16"), (BF16, "_bf16"), (F32, "_global")):
            amax = 7.25 if suffix == "_global" else 0.0
            if amax and mode != "nvfp4":
                continue
            extra = {"global_scale": mx.array(np.float32(amax))} if amax else {}
            codes = RNG.integers(0, 256, (32, size), dtype=np.uint8)
            codes[0], codes[1] = 0, 255
            scales = np.linspace(0, 255, 32).astype(np.uint8).reshape(32, 1)
            values = mx.dequantize(mx.array(codes.view(np.uint32)), mx.array(scales), mode=mode,
                                   dtype=mx.float32, **extra)
            x = rounded(inputs(16, 32), x_type).reshape(-1, group)
            got = mx.quantize(to_mx(x.reshape(-1, 32), x_type), mode=mode, **extra)
            out = [raw_bytes(got[0]).reshape(-1, size), raw_bytes(got[1]).reshape(-1, 1)]
            write(folder, f"mlx_{mode}{suffix}", f"mlx_{mode}", [codes, scales], np.array(values),
                  x, out, x_type, amax)


def int4_files(folder):
    for group in (32, 64, 128):
        codes = RNG.integers(0, 256, (6, group // 2), dtype=np.uint8)
        codes[0], codes[1] = 0, 255
        bits = bf16_bits(RNG.standard_normal((6, 1)))
        scale = (bits.astype(np.uint32) << 16).view(np.float32)
        u = np.stack([codes & 15, codes >> 4], -1).reshape(6, group).astype(np.float32)
        x = inputs(8, group)
        x_bits = bf16_bits(np.abs(x).max(-1, keepdims=True) / np.float32(7))
        x_scale = (x_bits.astype(np.uint32) << 16).view(np.float32)
        ratio = np.divide(x, x_scale, out=np.zeros_like(x), where=x_scale > 0)
        q = (np.clip(np.rint(ratio), -8, 7) + 8).astype(np.uint8)
        write(folder, f"int4_g{group}", f"int4_g{group}", [codes, bits], (u - 8) * scale, x,
              [q[:, 0::2] | q[:, 1::2] << 4, x_bits])


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "golden")
    folder.mkdir(exist_ok=True)
    mx.set_default_device(mx.cpu)
    gguf_files(folder)
    float_files(folder)
    affine_files(folder)
    mlx_fp_files(folder)
    int4_files(folder)
    files = sorted(folder.glob("*.bin"))
    print(f"{len(files)} files, {sum(f.stat().st_size for f in files)} bytes")


if __name__ == "__main__":
    main()
