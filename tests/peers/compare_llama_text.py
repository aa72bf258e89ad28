# SPDX-License-Identifier: MIT
"""The greedy text of llama.cpp (PyPI llama-cpp-python) on the model in models/, up to near-ties.

    python tests/peers/compare_llama_text.py build/libgqmm.so
    python tests/peers/compare_llama_text.py build/libgqmm.so --write tests/data/demo-llama.json

Both programs round activations to 8 bits, each in its own way, and llama.cpp's logits of this model
differ from those of fp32 by up to 0.2. So a choice between two tokens is decided only where their
logits are further apart than NEAR. llama.cpp's text is fed to gqmm token by token; at every step its
token must be gqmm's first choice, or behind it by less than NEAR. The same holds llama.cpp of this
machine, with and without repacking, to the ids that --write froze for tests/check_model.c.
"""

import argparse
import ctypes as C
import json
import sys
from pathlib import Path

import numpy as np

import gqmm_ctypes
from gqmm_ctypes import EXACT, INT8, Gqmm, Report

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "stories-q4_k_m.gguf"
FROZEN = ROOT / "tests" / "data" / "demo-llama.json"
PROMPTS = ROOT / "tests" / "data" / "demo-fixtures.json"
NEAR = 0.1
MOST = 200  # tokens of a text that does not end by itself


class Llama:
    def __init__(self, ll, repacked):
        self.ll = ll
        self.log = ll.llama_log_callback(lambda level, text, user: None)
        ll.llama_log_set(self.log, C.c_void_p())
        ll.llama_backend_init()
        params = ll.llama_model_default_params()
        assert hasattr(params, "use_extra_bufts")
        params.use_extra_bufts = repacked
        self.model = ll.llama_model_load_from_file(str(MODEL).encode(), params)
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.context = ll.llama_init_from_model(self.model, ll.llama_context_default_params())
        self.n_vocab = ll.llama_vocab_n_tokens(self.vocab)

    def reset(self):
        self.ll.llama_memory_clear(self.ll.llama_get_memory(self.context), True)

    def eval(self, ids):
        """Logits after the ids."""
        array = (C.c_int32 * len(ids))(*ids)
        if self.ll.llama_decode(self.context, self.ll.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama.cpp could not compute a batch")
        logits = self.ll.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.n_vocab,)).copy()

    def greedy(self, ids):
        """The text that follows, its end token included."""
        self.reset()
        logits, out = self.eval(ids), []
        while len(out) < MOST:
            out.append(int(logits.argmax()))
            if self.ll.llama_vocab_is_eog(self.vocab, out[-1]):
                break
            logits = self.eval(out[-1:])
        return out


class Ours:
    """A session of libgqmm-model, which lies beside libgqmm."""

    def __init__(self, library, precision, n_vocab):
        self.n_vocab = n_vocab
        self.lib = Gqmm(library)
        model = Path(library).resolve().parent / "libgqmm-model.so"
        self.lib.dll = C.CDLL(str(model))
        self.lib.typed("gqmm_session_logits", C.POINTER(C.c_float))
        self.error = gqmm_ctypes.STRUCTS["gqmm_error"]()
        self.file, self.ctx, self.model, self.session = (C.c_void_p() for _ in range(4))
        desc = gqmm_ctypes.STRUCTS["gqmm_model_desc"]()
        desc.struct_size, desc.precision = C.sizeof(desc), precision
        self.call("gqmm_file_open", str(MODEL).encode(), 0, None, C.byref(self.file))
        self.call("gqmm_context_create", None, C.byref(self.ctx))
        self.call("gqmm_model_create", self.ctx, self.file, C.byref(desc), C.byref(self.model))
        self.call("gqmm_session_create", self.model, C.c_int64(0), C.c_int64(0),
                  C.byref(self.session))

    def call(self, name, *arguments):
        if getattr(self.lib.dll, name)(*arguments, C.byref(self.error)):
            raise RuntimeError(f"{name}: {self.error.text.decode()}")

    def reset(self):
        self.call("gqmm_session_truncate", self.session, C.c_int64(0))

    def eval(self, ids):
        array = (C.c_int32 * len(ids))(*ids)
        self.call("gqmm_session_eval", self.session, array, C.c_int64(len(ids)), None)
        return np.ctypeslib.as_array(self.lib.dll.gqmm_session_logits(self.session),
                                     (self.n_vocab,)).copy()


def follow(side, prompt, text):
    """How far behind the side's first choice each token of the text lies."""
    side.reset()
    logits, behind = side.eval(prompt), []
    for token in text:
        behind.append(float(logits.max() - logits[token]))
        logits = side.eval([token])
    return np.array(behind)


def check(report, name, behind):
    worst = float(behind.max())
    report.check(name, bool(worst < NEAR),
                 f"{len(behind)} tokens, {(behind > 0).sum()} near-ties, worst {worst:.2g}" if worst < NEAR else
                 f"token {int(behind.argmax())} is {worst:.3g} behind the first choice")


def write(path, peer, prompts, version):
    cases = [{"name": c["name"], "ids": c["ids"], "greedy": peer.greedy(c["ids"])}
             for c in prompts]
    about = f"llama-cpp-python {version}: greedy text, weights as they lie in the file"
    path.write_text(json.dumps({"about": about, "near": NEAR, "cases": cases}) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("library")
    p.add_argument("--write", type=Path, metavar="FILE", help="freeze llama.cpp's ids and end")
    args = p.parse_args()
    report = Report("compare_llama_text")
    try:
        import llama_cpp as ll
    except (ImportError, OSError, RuntimeError) as e:
        report.skip("llama.cpp", f"llama-cpp-python is not there ({e})")
        return report.close()
    prompts = json.loads(PROMPTS.read_text())["cases"]
    plain = Llama(ll, False)
    if args.write:
        write(args.write, plain, prompts, ll.__version__)
        return 0
    sides = {"llama.cpp": plain, "llama.cpp repacked": Llama(ll, True),
             "gqmm int8": Ours(args.library, INT8, plain.n_vocab), "gqmm exact": Ours(args.library, EXACT, plain.n_vocab)}
    frozen = {c["name"]: c["greedy"] for c in json.loads(FROZEN.read_text())["cases"]}
    for case in prompts:
        prompt, text = case["ids"], plain.greedy(case["ids"])
        for name, side in sides.items():
            if side is plain:
                check(report, f"{case['name']}: {name}, the frozen text",
                      follow(side, prompt, frozen[case["name"]]))
            else:
                check(report, f"{case['name']}: {name}", follow(side, prompt, text))
        wrong = list(text)
        wrong[5] = (wrong[5] + 1) % plain.n_vocab
        report.check(f"{case['name']}: a planted token is caught",
                     bool(follow(sides["gqmm int8"], prompt, wrong).max() >= NEAR))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
