# SPDX-License-Identifier: MIT
"""What the `tokenizers` library makes of tests/data/tokenizer-text.txt: python3 models/cases.py

The text is a row of cases, each closed by a line "%%". Writes tests/data/demo-tokenizer.json (the
demo model's tokenizer) and tests/data/tiny-tokenizer.json (the tokenizer of the tiny test model).
There is no NFC normaliser, and special tokens are recognised in the text. Every case is checked to
decode to its own text again.
"""

import json
import os

import gguf

import bpe

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "tests", "data")


def write(tok, cases, out):
    rows = []
    for text in cases:
        ids = tok.encode(text).ids
        assert tok.decode(ids, skip_special_tokens=False) == text, text
        rows.append({"text": text, "ids": ids})
    with open(os.path.join(DATA, out), "w", encoding="utf-8") as f:
        f.write('{"about":"Hugging Face tokenizers, no normaliser, special tokens on","cases":[\n')
        f.write(",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in rows))
        f.write("\n]}\n")
    print(out, len(rows), "cases", sum(len(r["ids"]) for r in rows), "tokens")


def main():
    with open(os.path.join(DATA, "tokenizer-text.txt"), encoding="utf-8", newline="") as f:
        cases = f.read().split("\n%%\n")[:-1]
    write(bpe.load(os.path.join(HERE, "tokenizer.json")), cases, "demo-tokenizer.json")
    tiny = gguf.GGUFReader(os.path.join(DATA, "tiny-qwen3moe-f32.gguf"))
    parts = [tiny.fields[f"tokenizer.ggml.{x}"].contents() for x in ("tokens", "merges")]
    write(bpe.from_parts(*parts), cases, "tiny-tokenizer.json")


if __name__ == "__main__":
    main()
