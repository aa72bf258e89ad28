# SPDX-License-Identifier: MIT
"""What a call from Python costs beyond the C call, and gather_qmm beside MLX's.

    python bench/python_overhead.py [--json] [--seconds 1]

needs the package gqmm (pip install .), a C compiler, and for their rows torch and mlx[cpu]. The C
call is timed by a loop in C on the descriptor that Python made; both run on one thread, on weights
that stay in the cache, in turns, in CPU time of that thread (other work on the machine counts less
so). The second part has all threads and the shape of Qwen3-30B-A3B.
"""

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import gqmm
from gqmm._weights import Weights

LOOP = """
#include <stdint.h>
#include <time.h>
double loop(int32_t (*call)(void *, void *, void *), void *ctx, void *desc, void *err, long n)
{
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (long i = 0; i < n; i++)
        if (call(ctx, desc, err))
            return -1;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    return ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)n;
}
"""


def c_loop():
    folder = Path(tempfile.mkdtemp())
    (folder / "loop.c").write_text(LOOP)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", folder / "loop.so", folder / "loop.c"],
                   check=True)
    loop = ctypes.CDLL(str(folder / "loop.so")).loop
    loop.restype = ctypes.c_double
    loop.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long]
    return loop


def spread(values):
    values = sorted(values)
    return (values[len(values) * 9 // 10] - values[len(values) // 10]) / statistics.median(values)


def overhead(seconds):
    """Rows: ns of the C call and of the Python call, medians of rounds in turns."""
    rng = np.random.default_rng(0)
    context = gqmm.Context(threads=1)
    gqmm.set_default_context(context)
    q = gqmm.quantize(rng.standard_normal((8, 32, 64)).astype(np.float32))
    x = rng.standard_normal((4, 1, 1, 64)).astype(np.float32)
    ids = rng.integers(0, 8, (4, 2)).astype(np.int32)
    made = Weights.from_mlx(*q)
    calls = {"numpy, Weights": lambda: gqmm.gather_qmm(x, made, rhs_indices=ids),
             "numpy, arrays": lambda: gqmm.gather_qmm(x, *q, rhs_indices=ids)}
    try:
        import torch

        tx, ti, tq = torch.from_numpy(x), torch.from_numpy(ids), [torch.from_numpy(a) for a in q]
        calls["torch, Weights"] = lambda: gqmm.gather_qmm(tx, made, rhs_indices=ti)
        calls["torch, arrays"] = lambda: gqmm.gather_qmm(tx, *tq, rhs_indices=ti)
        calls["torch, torch.empty alone"] = lambda: torch.empty((4, 2, 1, 32), dtype=torch.float32)
    except ImportError:
        print("torch is not installed: its rows are left out")
    try:
        import mlx.core as mx

        mq = [mx.array(a) for a in (x, ids, *q)]
        calls["mlx, arrays"] = lambda: gqmm.gather_qmm(mq[0], *mq[2:], rhs_indices=mq[1])
    except ImportError:
        print("mlx is not installed: its rows are left out")
    y = calls["numpy, Weights"]()
    plan = next(iter(made._plans.values()))
    plan.desc.x, plan.desc.y, plan.desc.rhs = (a.ctypes.data for a in (x, y, ids))
    loop, n = c_loop(), 2000
    function = ctypes.cast(plan.run, ctypes.c_void_p).value
    c, times = [], {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while len(c) < 7 or time.perf_counter() < end:
        plan.desc.x, plan.desc.y, plan.desc.rhs = (a.ctypes.data for a in (x, y, ids))
        c.append(loop(function, context._handle, plan.at, context._error_at, n))
        for name, call in calls.items():
            begin = time.thread_time_ns()
            for _ in range(n):
                call()
            times[name].append((time.thread_time_ns() - begin) / n)
    base = statistics.median(c)
    rows = [{"part": "overhead", "call": "the C call", "ns": base, "ns_min": min(c),
             "spread": spread(c)}]
    for name, ns in times.items():
        row = {"part": "overhead", "call": name, "ns": statistics.median(ns), "ns_min": min(ns),
               "spread": spread(ns)}
        if "alone" not in name:
            row["beyond_c_ns"] = row["ns"] - base
            row["beyond_c_ns_min"] = row["ns_min"] - min(c)
        rows.append(row)
    return rows


def against_mlx(seconds, scale_type="f32", tokens=8, shape=(128, 768, 2048, 8)):
    """gather_qmm of 4-bit weights in groups of 64, x float32, exact, on all threads, beside MLX's
    on the same arrays. Scales are float32, or bfloat16 as published models have them."""
    try:
        import mlx.core as mx
    except ImportError:
        print("mlx is not installed: no comparison")
        return []
    mx.set_default_device(mx.cpu)
    context = gqmm.Context()
    gqmm.set_default_context(context)
    rng = np.random.default_rng(1)
    experts, n, k, used = shape
    part = gqmm.quantize((rng.standard_normal((64, k)) / k**0.5).astype(np.float32))
    choice = rng.integers(0, 64, (experts, n))
    q = [a[choice] for a in part]
    theirs = [mx.array(a) for a in q]
    if scale_type == "bf16":
        theirs[1:] = [a.astype(mx.bfloat16) for a in theirs[1:]]
    x = rng.standard_normal((tokens, 1, 1, k)).astype(np.float32)
    lists = [np.argsort(rng.random((tokens, experts)), 1)[:, :used].astype(np.uint32)
             for _ in range(32)]
    xm, lm = mx.array(x), [mx.array(ids) for ids in lists]
    mx.eval(theirs, xm, lm)
    made = Weights.from_mlx(*theirs)
    us, mlx_us, i = [], [], 0
    end = time.perf_counter() + seconds * 8
    while len(mlx_us) < 5 or time.perf_counter() < end:
        for _ in range(8):
            ids = lists[i % len(lists)]
            begin = time.perf_counter()
            y = gqmm.gather_qmm(x, made, rhs_indices=ids)
            us.append((time.perf_counter() - begin) * 1e6)
            i += 1
        begin = time.perf_counter()
        z = mx.gather_qmm(xm, *theirs, rhs_indices=lm[(i - 1) % len(lists)])
        mx.eval(z)
        mlx_us.append((time.perf_counter() - begin) * 1e6)
        error = float(np.abs(np.array(z) - y).max())
        assert error < 1e-3, error
    mid, other = statistics.median(us), statistics.median(mlx_us)
    touched = statistics.mean(len(np.unique(ids)) for ids in lists)
    return [{"part": "mlx", "shape": "qwen3-30b-a3b", "tokens": tokens, "format": made.format,
             "precision": "exact", "threads": context.threads, "us": mid, "us_min": min(us),
             "spread": spread(us), "gbs": touched * made.nbytes / experts / mid / 1e3,
             "mlx": mx.__version__, "mlx_us": other, "mlx_us_min": min(mlx_us),
             "mlx_spread": spread(mlx_us), "ratio": other / mid,
             "ratio_min": min(mlx_us) / min(us), "largest_difference": error}]


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--json", action="store_true", help="one JSON object a line")
    ap.add_argument("--seconds", type=float, default=1.0)
    args = ap.parse_args()
    rows = overhead(args.seconds)
    rows += against_mlx(args.seconds) + against_mlx(args.seconds, "bf16")
    for row in rows:
        if args.json:
            print(json.dumps({**row, "gqmm": gqmm.__version__, "python": platform.python_version(),
                              "isa": gqmm.default_context().isa}))
        elif row["part"] == "overhead":
            beyond = row.get("beyond_c_ns")
            print(f"{row['call']:26} {row['ns']:8.0f} ns (least {row['ns_min']:.0f}, spread "
                  f"{row['spread']:.0%})" + (f"  beyond C {beyond:.0f}" if beyond else ""))
        else:
            print(f"gather_qmm, {row['tokens']} tokens, {row['format']}: {row['us']:.0f} us (least "
                  f"{row['us_min']:.0f}, {row['gbs']:.1f} GB/s), MLX {row['mlx_us']:.0f} us, "
                  f"ratio {row['ratio']:.1f} (of the least times {row['ratio_min']:.1f})")


if __name__ == "__main__":
    main()
