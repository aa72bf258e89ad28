# SPDX-License-Identifier: MIT
"""gather_qmm and qmm against mlx.core on random shapes, indices and modes.

    python tests/peers/compare_matmul.py build/libgqmm.so [--seed N] [--rounds N]

The bound is the tightest of MLX's own tests, 1.5e-5 with operands scaled as there (x and w are
Gaussian / sqrt(K)), plus one rounding of the output for f16 and bf16. MLX on the CPU sums some
modes in the narrow type, so the reference is MLX in fp32 on the same operands.
"""

import argparse
import sys
import time

import numpy as np

from compare_formats import Mlx, mlx_modes
from gqmm_ctypes import BF16, EXACT, F16, F32, Gqmm, Report, bf16_to_f32, f32_to_bf16

TYPES = {"f32": F32, "f16": F16, "bf16": BF16}
BOUND = 1.5e-5
ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}  # of one value, relative
# (batch of x, lhs indices, batch of w, rhs indices): the shapes of MLX's test, and None.
INDICES = [
    ((1,), (0,), (3,), (2, 1)),
    ((1,), None, (3,), (2, 1)),
    ((2,), None, (3,), (2, 1)),
    ((3,), (0, 2), (1,), (0,)),
    ((5,), (0, 2), (3,), (2, 1)),
    ((4, 2), ((7, 6), (5, 4), (1, 2)), (4, 1), ((2,), (0,), (1,))),
    ((6,), (5, 5, 0, 2), (4,), (3, 3, 3, 0)),
    ((3,), None, (3,), None),
]


def narrow(x, dtype):
    """x rounded to the type, as it is stored, and the same values in fp32."""
    if dtype == "bf16":
        bits = f32_to_bf16(x)
        return bits, bf16_to_f32(bits)
    stored = x.astype({"f32": np.float32, "f16": np.float16}[dtype])
    return stored, stored.astype(np.float32)


class Case:
    """Quantised weights [*batch, rows, cols] in MLX's arrays and as byte planes."""

    def __init__(self, mlx, rng, name, dtype, how, batch, rows, cols, k):
        mx, self.mlx, self.name, self.dtype, self.how = mlx.mx, mlx, name, dtype, how
        self.rows, self.cols = rows, cols
        self.n_experts = int(np.prod(batch))
        w, _ = narrow(rng.standard_normal((*batch, rows, cols)).astype(np.float32) / k**0.5, dtype)
        self.parts = mx.quantize(mlx.array(w, dtype), **how)
        self.planes = [mlx.raw(p.reshape(-1, p.shape[-1])) for p in self.parts]

    def wide(self):
        """The operands of MLX, floats in fp32."""
        mx = self.mlx.mx
        parts = [p if p.dtype in (mx.uint32, mx.uint8) else p.astype(mx.float32)
                 for p in self.parts]
        return parts if len(parts) == 3 else [*parts, None]


def gather(lib, ctx, case, x, lhs, rhs, m, transpose, n):
    n_pairs = max(1 if i is None else i.size for i in (lhs, rhs))
    if lhs is None and rhs is None:
        n_pairs = case.n_experts
    n_x = x.size // (m * x.shape[-1])
    y = np.full((n_pairs, m, n), 7, x.dtype)
    w = lib.weights(ctx, case.name, case.planes, case.rows, case.cols, case.n_experts)
    arrays = {key: value for key, value in (("lhs", lhs), ("rhs", rhs)) if value is not None}
    if rhs is not None and np.all(rhs == rhs[0]):
        arrays["rhs_stride"] = -1  # one id for all pairs
    try:
        lib.call("gqmm_gather_qmm", ctx, lib.new(
            "gqmm_gather", precision=EXACT, w=w, transpose=transpose, n_pairs=n_pairs, m=m,
            n_x=n_x, y=y, y_type=TYPES[case.dtype], x_type=TYPES[case.dtype], x=x, **arrays))
    finally:
        lib.destroy_weights(w)
    return y


def dense(lib, ctx, case, x, transpose, n_out):
    x2 = x.reshape(-1, x.shape[-1])
    y = np.full((len(x2), n_out), 7, x.dtype)
    w = lib.weights(ctx, case.name, case.planes, case.rows, case.cols)
    try:
        lib.call("gqmm_qmm", ctx, lib.new(
            "gqmm_dense", precision=EXACT, w=w, transpose=transpose, m=len(x2), y=y, x=x2,
            x_type=TYPES[case.dtype], y_type=TYPES[case.dtype]))
    finally:
        lib.destroy_weights(w)
    return y


def as_f32(y):
    return bf16_to_f32(y) if y.dtype == np.uint16 else y.astype(np.float32)


def shapes(rng, group, transpose):
    """M, N, K and the stored rows and columns; the quantised side is whole groups."""
    m = int(rng.choice([1, 1, 2, 5, 32]))
    whole = group * int(rng.integers(1, 5))
    free = int(rng.choice([1, 3, 8, 33, 64, 130]))
    n, k = (free, whole) if transpose else (whole, free)
    return m, n, k, *((n, k) if transpose else (k, n))


def flat(ids, batch):
    """What MLX makes of missing indices, and int32 for us."""
    if ids is None:
        return np.arange(int(np.prod(batch)), dtype=np.int32).reshape(batch)
    return np.array(ids, np.int32)


def excess(got, want, dtype):
    """The greatest difference beyond one rounding; NaN counts as infinite."""
    want = np.array(want).reshape(got.shape)
    beyond = np.abs(got - want) - ROUNDING[dtype] * np.abs(want)
    return float(beyond.max()) if np.isfinite(beyond).all() else np.inf


def one_round(lib, ctx, mlx, rng, name, dtype, how):
    """The greatest excess of one gather and one dense product, transposed and not."""
    worst, mx = 0.0, mlx.mx
    for transpose in (1, 0):
        x_batch, lhs, w_batch, rhs = INDICES[rng.integers(len(INDICES))]
        m, n, k, rows, cols = shapes(rng, max(32, how["group_size"]), transpose)
        case = Case(mlx, rng, name, dtype, how, w_batch, rows, cols, k)
        x, x32 = narrow(rng.standard_normal((*x_batch, m, k)).astype(np.float32) / k**0.5, dtype)
        scales = case.wide()
        ids = {key: mx.array(flat(value, batch).astype(np.uint32)) for key, value, batch in (
            ("lhs_indices", lhs, x_batch), ("rhs_indices", rhs, w_batch)) if value is not None}
        want = mx.gather_qmm(mx.array(x32), *scales, transpose=bool(transpose), **ids, **how)
        if lhs is None and rhs is None:
            pair = (None, None)
        else:
            pair = [a.reshape(-1).copy() for a in np.broadcast_arrays(
                flat(lhs, x_batch), flat(rhs, w_batch))]
        got = as_f32(gather(lib, ctx, case, x, *pair, m, transpose, n))
        worst = max(worst, excess(got, want, dtype))

        case = Case(mlx, rng, name, dtype, how, (), rows, cols, k)
        want = mx.quantized_matmul(mx.array(x32), *case.wide(), transpose=bool(transpose), **how)
        got = as_f32(dense(lib, ctx, case, x, transpose, n))
        worst = max(worst, excess(got, want, dtype))
    return worst


def global_scales(lib, ctx, mlx, rng, report):
    """A global scale for each expert. MLX multiplies with it on GPUs only, so its dequantised
    weights are the reference here."""
    mx, amax = mlx.mx, np.array([4.0, 0.5, 31.0], np.float32)
    case = Case(mlx, rng, "mlx_nvfp4", "f32", dict(mode="nvfp4", bits=4, group_size=16), (3,), 24,
                256, 256)
    w = [np.array(mx.dequantize(case.parts[0][e], case.parts[1][e], mode="nvfp4",
                                dtype=mx.float32, global_scale=mx.array(amax[e])))
         for e in range(3)]
    x = rng.standard_normal((6, 256)).astype(np.float32) / 16
    ids = np.array([2, 0, 1, 1, 2, 0], np.int32)
    y = np.zeros((6, 24), np.float32)
    handle = lib.weights(ctx, case.name, case.planes, 24, 256, 3, global_scale=amax,
                         global_scale_stride=1)
    lib.call("gqmm_gather_qmm", ctx, lib.new("gqmm_gather", w=handle, transpose=1, n_pairs=6,
                                             n_x=6, y=y, x=x, rhs=ids))
    lib.destroy_weights(handle)
    want = np.stack([w[e].astype(np.float64) @ v for e, v in zip(ids, x)])
    worst = float((np.abs(y - want) / np.abs(want).max()).max())
    report.check("mlx_nvfp4_global", worst <= BOUND, f"worst {worst:.3g} of the largest")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    rng = np.random.default_rng(options.seed)
    report = Report("compare_matmul")
    try:
        mlx = Mlx()
    except ImportError:
        report.skip("mlx", "no mlx package")
        return report.close()
    lib = Gqmm(options.library)
    ctx = lib.context()
    for name, dtype, how in mlx_modes():
        worst = max(one_round(lib, ctx, mlx, rng, name, dtype, how)
                    for _ in range(options.rounds))
        label = name if how["mode"] == "affine" else f"{name}_{dtype}"
        report.check(label, worst <= BOUND, f"worst {worst:.3g}")
    global_scales(lib, ctx, mlx, rng, report)
    lib.destroy_context(ctx)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
