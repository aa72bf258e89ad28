#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The mixture-of-experts block of gqmm, or a dense product, beside ggml's and MLX's, in one run.

    python bench/peers.py --shape qwen3-30b-a3b --format q4_k --tokens 1,8,64,512
    python bench/peers.py --format affine4_g64_f32 --peers mlx --tokens 1 --json > rows.jsonl
    python bench/peers.py --op qmm --shape 1,4096,4096,1 --tokens 512

All get the same bytes, activations, routing and threads (MLX's CPU backend uses one). Results are
compared before anything is timed. Each round times every side in turn, in blocks that begin with
an untimed call, on layers that take turns so that no weight is found in a cache. A ratio above 1
says that gqmm is faster.

GGUF formats meet ggml, as it is and repacked at load; formats affine*_f32, mlx_mxfp4 and
mlx_mxfp8 meet MLX. Needs numpy and llama-cpp-python, mlx[cpu]; a peer that is missing is left out.
"""

import argparse
import ctypes as C
import json
import sys
import time

import common
import numpy as np
import peer_ggml
import peer_mlx
from gqmm_ctypes import EXACT, INT8, Gqmm

AGREE = 1e-3  # NMSE between two int8 roundings of the activations, each about 1e-4
REST = 0.01  # seconds in which threads that spin after a call of another library go to sleep


class Ours:
    """gqmm_moe or gqmm_qmm on one layer; the call is prepared, so that Python's part is a
    microsecond or two."""

    def __init__(self, lib, ctx, name, layer, shape, precision):
        self.lib, self.ctx = lib, ctx
        self.weights = [lib.weights(ctx, name, planes, rows, k, experts)
                        for (experts, rows, k), planes in layer]
        self.dense = len(layer) == 1
        if self.dense:
            self.name, self.n_out = "gqmm_qmm", shape.ff
            self.d = lib.new("gqmm_dense", precision=precision, w=self.weights[0], transpose=1)
        else:
            gate, up, down = self.weights
            self.name, self.n_out = "gqmm_moe", shape.hidden
            self.d = lib.new("gqmm_moe_desc", precision=precision, gate=gate, up=up, down=down,
                             n_slots=shape.used)
        self.call = getattr(lib.dll, self.name)
        self.call.argtypes = [C.c_void_p] * 3
        self.pointer = C.byref(self.d)

    def set(self, x, ids, w):
        self.keep = (x, ids, w)
        self.y = np.empty((len(x), self.n_out), np.float32)
        d = self.d
        d.x, d.y = x.ctypes.data, self.y.ctypes.data
        if self.dense:
            d.m = len(x)
        else:
            d.n_tokens, d.ids, d.weights = len(x), ids.ctypes.data, w.ctypes.data

    def run(self):
        if self.call(self.ctx, self.pointer, None):
            self.lib.call(self.name, self.ctx, self.d)  # says why

    def output(self):
        return self.y.copy()

    def free(self):
        for w in self.weights:
            self.lib.destroy_weights(w)


def make_layers(lib, ctx, name, op, shape, n_layers, rng):
    """[layer][matrix] of ((E, rows, k), byte planes)."""
    sizes = [(1, shape.ff, shape.hidden)] if op == "qmm" else [
        (shape.experts, shape.ff, shape.hidden)] * 2 + [(shape.experts, shape.hidden, shape.ff)]
    block = lib.format(name).block_elems
    for _, _, k in sizes:
        if k % block:
            raise SystemExit(f"rows of {k} weights are no multiple of the block of {name}, {block}")
    tiles = {k: common.Tile(lib, ctx, name, k, rng) for _, _, k in sizes}
    return [[(size, tiles[size[2]].rows(rng, size[0] * size[1])) for size in sizes]
            for _ in range(n_layers)]


def layer_count(lib, name, op, shape, tokens):
    """Four caches full of other weights before the same expert may come again, within three
    gigabytes: peers that repack hold every layer a second time."""
    row = sum(lib.row_bytes(name, shape.hidden))
    layer = shape.ff * row * (1 if op == "qmm" else 3 * shape.experts)
    touched = layer if op == "qmm" else layer * (1 - (1 - shape.used / shape.experts) ** tokens)
    most = max(2, (3 << 30) // layer)
    return max(2, min(64, most, int(4 * common.cache_bytes() / touched) + 1))


def open_peers(wanted, threads, name, lib):
    """Name to library; what is missing is said."""
    peers, kind = {}, lib.format(name).gguf_type
    if kind >= 0 and {"ggml", "ggml-repacked"} & set(wanted):
        try:
            peers["ggml"] = peer_ggml.Ggml(threads)
        except (ImportError, AttributeError, OSError) as error:
            print(f"no ggml: {error}", file=sys.stderr)
    if peer_mlx.arguments(name) and "mlx" in wanted:
        try:
            peers["mlx"] = peer_mlx.Mlx()
        except ImportError as error:
            print(f"no mlx: {error}", file=sys.stderr)
    return peers


class Sides:
    """Every library with all layers open: name to a list of one block maker per layer."""

    def __init__(self, args, lib, ctx, name, shape, layers, peers):
        self.opened, self.makers = [], {}
        precision = {"exact": EXACT, "int8": INT8}[args.precision]
        ours = [Ours(lib, ctx, name, layer, shape, precision) for layer in layers]
        self.makers["gqmm"] = [lambda tokens, o=o: o for o in ours]
        self.owned = list(ours)
        kind = lib.format(name).gguf_type
        for side, repack in (("ggml", False), ("ggml-repacked", True)):
            ggml = peers.get("ggml")
            if not ggml or side not in args.peers or (repack and not ggml.repacking):
                continue
            opened = []
            for layer in layers:
                opened.append(peer_ggml.Weights(ggml, repack, [(kind, size, planes[0])
                                                               for size, planes in layer]))
                if not opened[0].good:
                    break
            self.owned += opened
            if opened[0].good:
                self.makers[side] = [lambda tokens, w=w, g=ggml: peer_ggml.Block(
                    g, w, shape, tokens) for w in opened]
            else:
                print(f"{side} does not repack {name} in this shape", file=sys.stderr)
        if "mlx" in peers:
            mlx = peers["mlx"]
            matrices = [[mlx.matrix(name, size, planes) for size, planes in layer]
                        for layer in layers]
            self.makers["mlx"] = [lambda tokens, m=m: peer_mlx.Block(mlx, name, m)
                                  for m in matrices]

    def blocks(self, tokens):
        return {side: [make(tokens) for make in makers] for side, makers in self.makers.items()}

    def free(self):
        for thing in self.owned:
            thing.free()


def time_block(blocks, first, calls, x, lists):
    """Seconds of each of `calls` calls, after one untimed; layers and id lists take turns."""
    times = []
    time.sleep(REST)
    for i in range(first, first + calls + 1):
        block = blocks[i % len(blocks)]
        block.set(x, *lists[i % len(lists)])
        start = time.perf_counter()
        block.run()
        times.append(time.perf_counter() - start)
    return times[1:]


def agreement(blocks, x, lists):
    """NMSE of every side against gqmm on the first layer and list."""
    outputs = {}
    for side, of_layers in blocks.items():
        of_layers[0].set(x, *lists[0])
        of_layers[0].run()
        outputs[side] = of_layers[0].output()
    return {side: common.nmse(outputs["gqmm"], y) for side, y in outputs.items() if side != "gqmm"}


def measure(args, sides, shape, tokens, rng):
    """Times by side, and the agreement; sides that do not agree are not timed."""
    x = rng.standard_normal((tokens, shape.hidden), np.float32)
    lists = [common.route(rng, tokens, shape.experts, shape.used, args.routing == "skewed")
             for _ in range(61 if tokens * shape.used < 1 << 14 else 7)]
    blocks = sides.blocks(tokens)
    errors = agreement(blocks, x, lists)
    bad = {side for side, error in errors.items() if not error < AGREE}
    times = {side: [] for side in blocks if side not in bad}
    calls, begin, order = {side: 1 for side in times}, time.perf_counter(), list(times)
    at = {side: 0 for side in times}
    while any(len(t) < args.repeats for t in times.values()) or \
            time.perf_counter() - begin < args.seconds:
        for side in order:
            got = time_block(blocks[side], at[side], calls[side], x, lists)
            at[side] += len(got) + 1
            times[side] += got
            # Some ten milliseconds a block, so that each round sees the same machine.
            calls[side] = max(1, min(32, int(0.01 / max(min(got), 1e-6))))
        order = order[1:] + order[:1]
        if time.perf_counter() - begin > args.patience and all(len(t) >= 3 for t in times.values()):
            break
    for side, of_layers in blocks.items():
        for block in of_layers if side.startswith("ggml") else ():
            block.free()
    return times, errors, bad


def report(args, name, shape, tokens, n_layers, result, about):
    times, errors, bad = result
    ours = common.median(times["gqmm"])
    for side, seconds in times.items():
        us = 1e6 * common.median(seconds)
        row = {"op": args.op, "shape": shape.name, "format": name, "device": "cpu", "side": side,
               "precision": args.precision, "routing": args.routing, "tokens": tokens,
               "threads": args.threads, "us": round(us, 3), "us_min": round(1e6 * min(seconds), 3),
               "spread": round(common.spread(seconds), 4), "repeats": len(seconds),
               "layers": n_layers, "ratio": round(us / (1e6 * ours), 4),
               "ratio_min": round(min(seconds) / min(times["gqmm"]), 4),
               "nmse": errors.get(side), **about}
        if args.json:
            print(json.dumps(row), flush=True)
        else:
            error = "" if side == "gqmm" else f"{errors[side]:9.1e}"
            print(f"{name:<16} {tokens:>6} {side:<14} {us:>12.1f} {row['us_min']:>12.1f} "
                  f"{100 * row['spread']:>6.1f}% {row['ratio']:>7.2f} {row['ratio_min']:>7.2f} "
                  f"{error:>9}", flush=True)
    for side in sorted(bad):
        print(f"FAIL {name}, {tokens} tokens: {side} differs from gqmm, NMSE {errors[side]:.2e}",
              file=sys.stderr)


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--lib", default=common.built("libgqmm.so"), help="libgqmm.so")
    p.add_argument("--op", choices=("moe", "qmm"), default="moe")
    p.add_argument("--shape", default="qwen3-30b-a3b", help="a name of shapes.def or E,N,K,top")
    p.add_argument("--format", default="q4_k", help="formats with commas between them")
    p.add_argument("--tokens", default="1,8,64,512")
    p.add_argument("--threads", type=int, default=common.default_threads())
    p.add_argument("--isa", help="use no kernels of gqmm above this one")
    p.add_argument("--precision", choices=("int8", "exact"), default="int8", help="of gqmm")
    p.add_argument("--routing", choices=("uniform", "skewed"), default="uniform")
    p.add_argument("--peers", default="ggml,ggml-repacked,mlx")
    p.add_argument("--seconds", type=float, default=2, help="of a row, at least")
    p.add_argument("--repeats", type=int, default=10, help="of each side, at least")
    p.add_argument("--patience", type=float, default=120,
                   help="seconds after which three repeats will do")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", action="store_true", help="one JSON object a line")
    return p.parse_args()


def main():
    args = parse()
    args.peers = args.peers.split(",")
    shape, rng = common.find_shape(args.shape), np.random.default_rng(args.seed)
    lib = Gqmm(common.need_file(args.lib))
    fields = {"n_threads": args.threads}
    if args.isa:
        fields["isa"] = args.isa.encode()
    ctx = lib.context(**fields)
    failed = False
    if not args.json:
        print(f"{common.cpu_name()}, {args.threads} threads; {args.op}, {shape.name}: "
              f"E {shape.experts}, N {shape.ff}, K {shape.hidden}, top {shape.used}; "
              f"gqmm {args.precision}")
        print(f"{'format':<16} {'tokens':>6} {'side':<14} {'us':>12} {'us min':>12} {'spread':>7} "
              f"{'ratio':>7} {'of min':>7} {'nmse':>9}")
    tokens = [int(t) for t in args.tokens.split(",")]
    for name in args.format.split(","):
        n_layers = layer_count(lib, name, args.op, shape, min(tokens))
        layers = make_layers(lib, ctx, name, args.op, shape, n_layers, rng)
        peers = open_peers(args.peers, args.threads, name, lib)
        about = {"isa": lib.dll.gqmm_kernel_isa(
            name.encode(), lib.dll.gqmm_context_isa(ctx)).decode(),
            "machine": common.machine(),
            "versions": {side: peer.version for side, peer in peers.items()}}
        if "ggml" in peers:
            about["versions"]["ggml_features"] = peers["ggml"].features()
        sides = Sides(args, lib, ctx, name, shape, layers, peers)
        for t in tokens:
            result = measure(args, sides, shape, t, rng)
            report(args, name, shape, t, n_layers, result, about)
            failed = failed or bool(result[2])
        sides.free()
    lib.destroy_context(ctx)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
