#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A model file in gqmm beside llama.cpp (PyPI llama-cpp-python): tokens per second of a prompt and
of generation, each from an empty context with random tokens, as llama-bench measures.

    gqmm synth --shape qwen3-30b-a3b --layers 8 part.gguf
    python bench/model_peers.py part.gguf --prompt 512 --gen 128

llama.cpp runs as it reads the file ("llama.cpp") and with its weights repacked at load
("llama.cpp-repacked"), which costs a second copy of them in memory. Rounds take turns. A ratio
above 1 says that gqmm is faster.
"""

import argparse
import ctypes as C
import json
import subprocess
import sys
import time

import common
import numpy as np


class Llama:
    """One model and context of llama.cpp."""

    def __init__(self, path, threads, n_tokens, repacked):
        import llama_cpp as ll

        self.ll = ll
        # Kept: the library calls it for as long as it lives.
        self.silence = ll.llama_log_callback(lambda level, text, user: None)
        ll.llama_log_set(self.silence, C.c_void_p())
        ll.llama_backend_init()
        params = ll.llama_model_default_params()
        params.use_mmap, params.use_extra_bufts = not repacked, repacked
        self.model = ll.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_tokens + 16, max(n_tokens, 512), 512
        params.n_threads = params.n_threads_batch = threads
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
        """Tokens per second by test, after a warm-up."""
        self.rate(tokens[:4], True)
        found = {}
        for test, n, single in (("pp", args.prompt, False), ("tg", args.gen, True)):
            if n:
                if not single:
                    self.rate(tokens[:n], False)
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
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--sides", default="llama.cpp,llama.cpp-repacked")
    p.add_argument("--json", action="store_true", help="one JSON object a line")
    return p.parse_args()


def report(args, rates):
    about = {"threads": args.threads, "precision": args.precision, "machine": common.machine()}
    if not args.json:
        print(f"{common.cpu_name()}, {args.threads} threads, {args.file}")
        print(f"{'test':<8} {'side':<20} {'tokens/s':>10} {'best':>10} {'spread':>7} {'ratio':>7}")
    for test in rates["gqmm"]:
        ours = common.median(rates["gqmm"][test])
        for side, tests in rates.items():
            got = common.median(tests[test])
            row = {"op": "model", "test": test, "side": side, "model": args.file,
                   "tokens_per_second": got, "tokens_per_second_max": max(tests[test]),
                   "spread": common.spread(tests[test]), "repeats": len(tests[test]),
                   "ratio": ours / got, **about}
            if args.json:
                print(json.dumps(row))
            else:
                print(f"{test:<8} {side:<20} {got:>10.2f} {max(tests[test]):>10.2f} "
                      f"{100 * row['spread']:>6.1f}% {ours / got:>7.2f}")


def main():
    args = parse()
    for path in (args.file, args.gqmm):
        common.need_file(path)
    n = max(args.prompt, args.gen)
    peers = {side: Llama(args.file, args.threads, n, side.endswith("repacked"))
             for side in args.sides.split(",") if side}
    sizes = [peer.n_vocab for peer in peers.values()] or [2]
    tokens = np.random.default_rng(7).integers(0, min(sizes), n).tolist()
    rates = {side: {} for side in ("gqmm", *peers)}
    for _ in range(args.repeat):
        for side in rates:
            time.sleep(0.05)  # threads that spin after their last call go to sleep
            got = peers[side].rates(args, tokens) if side in peers else gqmm_rates(args)
            for test, value in got.items():
                rates[side].setdefault(test, []).append(value)
    report(args, rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
