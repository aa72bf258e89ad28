# SPDX-License-Identifier: MIT
"""Make the tiny random model of the tests: python3 models/tiny.py

Writes tests/data/tiny-qwen3moe-f32.gguf and tests/data/tiny-fixtures.json. The weights mean
nothing; they are large enough (std 0.15) that routing, norms and attention all matter, and the odd
number of experts, the head size that is not hidden / heads and the narrow experts make a mixed-up
dimension show at once.
"""

import os

import torch

import bpe
import export
import fixtures
import names

TEXT = (
    "the hen saw a red hat on the hill and the man said that he had it . she then ran to the sea "
    "and there was one more thing in her hand . it is what you are , not where they were going ! "
) * 40
PROMPTS = {
    "plain": "the hen and the man saw 12 hats",
    "chat": "<|im_start|>user\nhello, is it there?<|im_end|>\n<|im_start|>assistant\n",
    "bytes": "Grüße,\n\tこんにちは 🙂 it's 3.14",
}


def main():
    data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "data")
    os.makedirs(data, exist_ok=True)
    tok = bpe.train([TEXT], 320)
    vocab = tok.get_vocab_size(with_added_tokens=True)
    cfg = names.config(vocab=vocab, hidden=64, layers=2, heads=4, kv_heads=2, head_dim=32,
                       experts=5, used=2, width=32, context=512, theta=10000.0)
    torch.manual_seed(20261121)
    weights = {}
    for name, p in names.hf_model(cfg).named_parameters():
        if "norm" in name:
            weights[name] = (1.0 + 0.2 * torch.randn(p.shape)).numpy()
        else:
            weights[name] = (0.15 * torch.randn(p.shape)).numpy()
    path = os.path.join(data, "tiny-qwen3moe-f32.gguf")
    export.write(path, weights, cfg, tok, "gqmm tiny random model")
    made = fixtures.make(path, os.path.join(data, "tiny-fixtures.json"), PROMPTS)
    assert made["tensor_types"] == {"F32": 27}, made["tensor_types"]
    print(f"{vocab} tokens, {os.path.getsize(path)} bytes")
    for c in made["cases"]:
        print(c["name"], len(c["ids"]), c["residual_l2"], c["top"][:3], min(c["gap"]))


if __name__ == "__main__":
    main()
