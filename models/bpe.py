# SPDX-License-Identifier: MIT
"""The byte-level BPE tokenizer of the demo models.

Built with the Hugging Face `tokenizers` library, so that an implementation nobody here wrote is the
reference for ours. The pre-tokenizer is the expression that GGUF files call "qwen2". There is no
NFC normaliser: GGUF runtimes do not normalise, so the reference must not either.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _dress(tok):
    """Give a bare BPE model the pre-tokenizer, the decoder and the three special tokens."""
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return tok


def train(texts, size):
    """A tokenizer of `size` tokens: the 256 bytes, the merges, and the specials last."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIALS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    bare.train_from_iterator(texts, trainer)
    return _dress(bare)


def load(path):
    return Tokenizer.from_file(path)


def parts(tok):
    """(tokens in order of their ids, merges as "left right", ids of the special tokens)."""
    spec = json.loads(tok.to_str())
    vocab = tok.get_vocab(with_added_tokens=True)
    tokens = [None] * len(vocab)
    for text, number in vocab.items():
        tokens[number] = text
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    return tokens, merges, {s: vocab[s] for s in SPECIALS}


def from_parts(tokens, merges):
    """The tokenizer again from what a GGUF file holds; it must be the one that `parts` read."""
    vocab = {t: i for i, t in enumerate(tokens) if t not in SPECIALS}
    pairs = [tuple(m.split(" ", 1)) for m in merges]
    tok = _dress(Tokenizer(models.BPE(vocab=vocab, merges=pairs)))
    assert tok.get_vocab_size(with_added_tokens=True) == len(tokens)
    assert all(tok.token_to_id(t) == i for i, t in enumerate(tokens))
    return tok
