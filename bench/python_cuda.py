# SPDX-License-Identifier: MIT
"""gqmm from torch tensors on CUDA: what a call costs the host, and gather_qmm and moe with and
without a CUDA graph, beside the time that reading the weights takes.

    python bench/python_cuda.py [--json] [--rounds 20] [--tb 4.4] [--commit REV]

needs the package built with CUDA and a torch that has a GPU. Weights are cold: copies of more than
200 MB take turns. A graph holds one call for each copy. `eager` is the same calls one after another
without one, host included; `host` is the time after which the call returns.
"""

import argparse
import json
import statistics
import time

import torch

import gqmm
import gqmm.torch  # noqa: F401  (torch.ops.gqmm)

#: MLX's own CUDA backend on an H200 (us), 4-bit weights in groups of 64: published rows
MLX = {(4096, 4096, 2): 57, (4096, 4096, 8): 112, (4096, 4096, 32): 298, (11008, 4096, 32): 692}


def spread(values):
    values = sorted(values)
    return (values[len(values) * 9 // 10] - values[len(values) // 10]) / statistics.median(values)


def device_us(run, rounds, calls):
    """Microseconds of one of the calls that run() makes, by events, once for each round."""
    out = []
    for _ in range(rounds + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        out.append(begin.elapsed_time(end) * 1e3 / calls)
    return out[3:]


def host_us(run, rounds, calls=100):
    """Microseconds until a call returns: the queue is never full."""
    out = []
    for _ in range(rounds + 3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        out.append((time.perf_counter() - begin) * 1e6 / calls)
    torch.cuda.synchronize()
    return out[3:]


def row(name, how, us, **more):
    return {"call": name, "how": how, "us": statistics.median(us), "us_min": min(us),
            "spread": spread(us), **more}


def in_graph(calls):
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def both_ways(name, calls, rounds, floor_us, **more):
    """Rows of a list of calls that do the same on different memory."""
    graph = in_graph(calls)
    rows = [row(name, "graph", device_us(graph.replay, rounds, len(calls)),
                floor_us=floor_us, **more)]

    def eager():
        for _ in range(10):
            for call in calls:
                call()

    rows.append(row(name, "eager", device_us(eager, rounds, 10 * len(calls)),
                    floor_us=floor_us, **more))
    return rows


def host_rows(rounds):
    """The smallest calls: nothing but their cost."""
    w = torch.randn(8, 32, 64, device="cuda")
    q = gqmm.quantize(w)
    made = gqmm.Weights.from_mlx(*q)
    x = torch.randn(4, 1, 1, 64, device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(0, 8, (4, 2), device="cuda", dtype=torch.int32)
    many = torch.randn(200, 1, 1, 64, device="cuda", dtype=torch.bfloat16)
    more = torch.randint(0, 8, (200, 2), device="cuda", dtype=torch.int32)
    flat, share = x[:, 0, 0], torch.rand(4, 2, device="cuda")
    gate, up, down = (gqmm.Weights.quantize(torch.randn(*s, device="cuda"), "q8_0")
                      for s in ((8, 32, 64), (8, 32, 64), (8, 64, 32)))
    router = torch.randn(8, 64, device="cuda")
    layer = gqmm.torch.QuantizedLinear(torch.randn(32, 64, device="cuda"))
    calls = {
        "gather_qmm, Weights": lambda: gqmm.gather_qmm(x, made, rhs_indices=ids),
        "gather_qmm, arrays": lambda: gqmm.gather_qmm(x, *q, rhs_indices=ids),
        "gather_qmm, Weights, 400 pairs": lambda: gqmm.gather_qmm(many, made, rhs_indices=more),
        "quantized_matmul, Weights": lambda: gqmm.quantized_matmul(flat, made0),
        "moe, ids": lambda: gqmm.moe(flat, gate, up, down, ids=ids, weights=share),
        "moe, router": lambda: gqmm.moe(flat, gate, up, down, router=router, n_slots=2),
        "torch.ops.gqmm.gather_qmm": lambda: torch.ops.gqmm.gather_qmm(
            x, *q, rhs_indices=ids),
        "torch.nn.QuantizedLinear": lambda: layer(flat),
        "torch: x + x": lambda: x + x,
    }
    made0 = gqmm.Weights.from_mlx(*[a[0] for a in q])
    with torch.no_grad():
        return [row(name, "host", host_us(call, rounds)) for name, call in calls.items()]


def gather_rows(rounds, tb, n, k, pairs, dtype, experts=8):
    """One token for each pair; pairs take the experts in turns."""
    few = gqmm.quantize(torch.randn(64, k, device="cuda") / k**0.5)
    choice = torch.randint(0, 64, (experts, n), device="cuda")
    one = sum(a.element_size() * a[0].numel() for a in few) * experts * n
    copies = max(2, -(-250_000_000 // one))
    weights = [[a.view(torch.int32)[choice.roll(c)].view(a.dtype) if a.dtype == torch.uint32
                else a[choice.roll(c)] for a in few] for c in range(copies)]
    x = torch.randn(pairs, 1, k, device="cuda").to(dtype)
    ids = (torch.arange(pairs, device="cuda") % experts).int()
    scaled = [[w[0], w[1].to(dtype), w[2].to(dtype)] for w in weights]
    touched = min(pairs, experts) / experts * n * experts * k / 64 * (32 + 4)
    floor = (touched + 2 * pairs * (n + k)) / tb / 1e6
    calls = [lambda w=w: gqmm.gather_qmm(x, *w, rhs_indices=ids) for w in scaled]
    made = [gqmm.Weights.from_mlx(*w) for w in scaled]
    more = dict(n=n, k=k, experts=experts, pairs=pairs, dtype=str(dtype).split(".")[-1],
                copies=copies, mlx_us=MLX.get((n, k, pairs)))
    rows = both_ways("gather_qmm, arrays", calls, rounds, floor, **more)
    calls = [lambda w=w: gqmm.gather_qmm(x, w, rhs_indices=ids) for w in made]
    return rows + both_ways("gather_qmm, Weights", calls, rounds, floor, **more)[1:]


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--json", action="store_true", help="one JSON object a line")
    ap.add_argument("--rounds", type=int, default=20)
    ap.add_argument("--tb", type=float, default=4.4, help="TB/s that the floor is made of")
    ap.add_argument("--commit", help="of the library, for the rows")
    args = ap.parse_args()
    rows = host_rows(args.rounds)
    for n, k, pairs in MLX:
        for dtype in (torch.bfloat16, torch.float16):
            rows += gather_rows(args.rounds, args.tb, n, k, pairs, dtype)
    for r in rows:
        if args.json:
            print(json.dumps({**r, "device": torch.cuda.get_device_name(),
                              "gqmm": gqmm.__version__, "torch": torch.__version__,
                              **({"commit": args.commit} if args.commit else {})}))
        elif r["how"] == "host":
            print(f"{r['call']:32} {r['us']:7.2f} us until it returns (least {r['us_min']:.2f}, "
                  f"spread {r['spread']:.0%})")
        else:
            print(f"{r['call']:20} {r['how']:6} {r['dtype']:9} {r['n']:6} x {r['k']}, "
                  f"{r['pairs']:3} pairs {r['us']:7.1f} us (spread {r['spread']:.0%}, floor "
                  f"{r['floor_us']:.1f}, MLX {r['mlx_us']})")


if __name__ == "__main__":
    main()
