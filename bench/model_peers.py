#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A model file in gqmm beside llama.cpp (PyPI llama-cpp-python): tokens per second of a prompt and
of generation, each from an empty context with random tokens, as llama-bench measures.

    gqmm synth --shape qwen3-30b-a3b --layers 8 part.gguf
    python bench/model_peers.py part.gguf --prompt 512 --gen 128

llama.cpp runs as it reads the file ("llama.cpp") and with its weights repacked at load
("llama.cpp-repacked"), which costs a second copy of them in memory; its log is asked which of the
two it did. Rounds take turns in changing order, with a pause before each side. A ratio above 1 says
that gqmm is faster: the median over rounds of the ratio within a round, and beside it that of the
best rates. "best peer" names the side of llama.cpp that is faster in that test.
"""

import argparse
import ctypes as C
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path

import common
import numpy as np


def set_field(struct, name, value):
    """A field that this version has: ctypes would take any name without a word."""
    if not hasattr(struct, name):
        raise SystemExit(f"this llama-cpp-python has no {type(struct).__name__}.{name}")
    setattr(struct, name, value)


class Llama:
    """One model and context of llama.cpp."""

    def __init__(self, path, threads, n_tokens, repacked):
        import llama_cpp as ll

        self.ll = ll
        said = []
        # Kept: the library calls it for as long as it lives.
        self.log = ll.llama_log_callback(lambda level, text, user: said.append(text))
        ll.llama_log_set(self.log, C.c_void_p())
        ll.llama_backend_init()
        params = ll.llama_model_default_params()
        set_field(params, "use_extra_bufts", repacked)
        self.model = ll.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        if any(b"REPACK" in text for text in said) != repacked:
            raise SystemExit(f"llama.cpp did not do as told: weights repacked should be {repacked}")
        params = ll.llama_context_default_params()
        for name, value in (("n_ctx", n_tokens + 16), ("n_batch", max(n_tokens, 512)),
                            ("n_ubatch", 512), ("n_threads", threads),
                            ("n_threads_batch", threads)):
            set_field(params, name, value)
        self.context = ll.llama_init_from_model(self.model, params)
        self.n_vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))

    def eval(self, tokens):
        array = (C.c_int32 * len(tokens))(*tokens)
        if self.ll.llama_decode(self.context, self.ll.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama.cpp could not compute a batch")

    def rate(self, tokens, one_by_one):
        ll = self.ll
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)
        start = time.perf_counter()
        for batch in ([[t] for t in tokens] if one_by_one else [tokens]):
            self.eval(batch)
        ll.llama_synchronize(self.context)
        return len(tokens) / (time.perf_counter() - start)

    def rates(self, args, tokens):
        """Tokens per second by test, each after the warm-up that gqmm's command does too."""
        found = {}
        for test, n, single in (("pp", args.prompt, False), ("tg", args.gen, True)):
            if n:
                self.rate(tokens[:n], False)
                if single:
                    self.rate(tokens[:4], True)
                found[f"{test}{n}"] = self.rate(tokens[:n], single)
        return found


def gqmm_rates(args):
    """One run of the command; it warms up by itself."""
    command = [args.gqmm, "bench", "model", args.file, "--json", "--repeat", "1",
               "--prompt", args.prompt, "--gen", args.gen, "--threads", args.threads,
               "--precision", args.precision]
    if args.isa:
        command += ["--isa", args.isa]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["test"]: row["tokens_per_second"] for row in rows}


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("file", help="a GGUF file of an architecture that both know")
    p.add_argument("--gqmm", default=common.built("gqmm"), help="the command gqmm")
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--gen", type=int, default=128)
    p.add_argument("--threads", type=int, default=common.default_threads())
    p.add_argument("--isa", help="use no kernels of gqmm above this one")
    p.add_argument("--precision", choices=("int8", "exact"), default="int8", help="of gqmm")
    p.add_argument("--repeat", type=int, default=5, help="rounds")
    p.add_argument("--pause", type=float, default=0.3,
                   help="seconds before each side, in which threads that still spin fall asleep")
    p.add_argument("--sides", default="llama.cpp,llama.cpp-repacked")
    p.add_argument("--json", action="store_true", help="one JSON object a line")
    return p.parse_args()


def version():
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return None


def row_of(args, rates, side, test, about):
    values, ours = rates[side][test], rates["gqmm"][test]
    ratios = [a / b for a, b in zip(ours, values)]
    return {"op": "model", "test": test, "side": side, "model": Path(args.file).name,
            "tokens_per_second": common.median(values), "tokens_per_second_max": max(values),
            "spread": common.spread(values), "repeats": len(values),
            "ratio": common.median(ratios), "ratio_spread": common.spread(ratios),
            "ratio_max": max(ours) / max(values), **about}


def report(args, rates):
    about = {"threads": args.threads, "precision": args.precision, "bytes": args.bytes,
             "machine": common.machine(), "versions": {"llama-cpp-python": version()}}
    if not args.json:
        print(f"{common.cpu_name()}, {args.threads} threads, {args.file}")
        print(f"{'test':<8} {'side':<20} {'tokens/s':>10} {'best':>10} {'spread':>7} {'ratio':>7} "
              f"{'of best':>7}")
    for test in rates["gqmm"]:
        rows = [row_of(args, rates, side, test, about) for side in rates]
        for row in rows:
            if args.json:
                print(json.dumps(row))
            else:
                print(f"{test:<8} {row['side']:<20} {row['tokens_per_second']:>10.2f} "
                      f"{row['tokens_per_second_max']:>10.2f} {100 * row['spread']:>6.1f}% "
                      f"{row['ratio']:>7.2f} {row['ratio_max']:>7.2f}")
        if rows[1:] and not args.json:
            best = max(rows[1:], key=lambda row: row["tokens_per_second"])
            print(f"{test:<8} best peer: {best['side']}, gqmm is {best['ratio']:.2f} times as fast")


def main():
    args = parse()
    for path in (args.file, args.gqmm):
        common.need_file(path)
    args.bytes = Path(args.file).stat().st_size
    n = max(args.prompt, args.gen)
    peers = {side: Llama(args.file, args.threads, n, side.endswith("repacked"))
             for side in args.sides.split(",") if side}
    sizes = [peer.n_vocab for peer in peers.values()] or [2]
    tokens = np.random.default_rng(7).integers(0, min(sizes), n).tolist()
    rates = {side: {} for side in ("gqmm", *peers)}
    for i in range(args.repeat):
        order = list(rates)
        for side in order[i % len(order):] + order[:i % len(order)]:
            time.sleep(args.pause)
            got = peers[side].rates(args, tokens) if side in peers else gqmm_rates(args)
            for test, value in got.items():
                rates[side].setdefault(test, []).append(value)
    report(args, rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
