# SPDX-License-Identifier: MIT
"""Reference numbers of a GGUF model: python3 models/fixtures.py MODEL.gguf OUT.json

Every tensor is dequantised with the `gguf` package and loaded into transformers' own
`Qwen3MoeForCausalLM` in fp32 with eager attention. A runner that computes in exact precision over
the same file must then agree, whatever types the file mixes. The file's settings and tokenizer are
read from its metadata, so these are checked too.

For each prompt: token ids, L2 norm of the residual at the last position (after the embedding, then
after every layer), the 20 largest logits, and a greedy continuation that does not stop at an end
token, with the gap between best and second logit at each step (a tiny gap marks a near-tie).
"""

import argparse
import json

import gguf
import numpy as np
import torch

import bpe
import names

PROMPTS = {
    "plain": "Once upon a time, a girl called Mira lived by the river. One morning",
    "chat": "<|im_start|>user\nTell me a story about a girl called Mira and a lantern.<|im_end|>\n"
            "<|im_start|>assistant\n",
    "sum": "<|im_start|>user\nWhat is seven plus eight?<|im_end|>\n<|im_start|>assistant\n",
}


def value_of(reader, key):
    return reader.fields[key].contents()


def read_model(path):
    """(model in fp32, tokenizer, settings) from a GGUF file of any tensor types."""
    reader = gguf.GGUFReader(path)
    arch = value_of(reader, "general.architecture")
    assert arch == "qwen3moe", arch

    def key(name):
        return value_of(reader, f"{arch}.{name}")

    tokens = value_of(reader, "tokenizer.ggml.tokens")
    cfg = names.config(
        vocab=len(tokens), hidden=key("embedding_length"), layers=key("block_count"),
        heads=key("attention.head_count"), kv_heads=key("attention.head_count_kv"),
        head_dim=key("attention.key_length"), experts=key("expert_count"),
        used=key("expert_used_count"), width=key("expert_feed_forward_length"),
        context=key("context_length"), theta=key("rope.freq_base"))
    cfg["rms_norm_eps"] = key("attention.layer_norm_rms_epsilon")
    tensors, kinds = {}, {}
    for t in reader.tensors:
        shape = [int(n) for n in reversed(t.shape)]
        tensors[t.name] = gguf.quants.dequantize(t.data, t.tensor_type).reshape(shape)
        kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + 1
    weights = names.from_gguf(tensors, cfg["num_hidden_layers"])
    model = names.hf_model(cfg, attn_implementation="eager").float().eval()
    state = {k: torch.from_numpy(np.array(v, dtype=np.float32)) for k, v in weights.items()}
    model.load_state_dict(state, strict=True)
    try:
        model.set_experts_implementation("eager")
    except (AttributeError, ValueError):
        pass
    tok = bpe.from_parts(tokens, value_of(reader, "tokenizer.ggml.merges"))
    return model, tok, cfg, kinds


def digits(x, n=7):
    return float(f"{float(x):.{n}g}")


@torch.no_grad()
def case(model, tok, name, text, steps):
    ids = tok.encode(text).ids
    norms = []

    def note(_module, _args, out):
        h = out[0] if isinstance(out, tuple) else out
        norms.append(digits(h[0, -1].double().norm()))

    watched = [model.model.embed_tokens, *model.model.layers]
    hooks = [m.register_forward_hook(note) for m in watched]
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
    for hook in hooks:
        hook.remove()
    top = logits.topk(20)
    greedy, gaps, run = [], [], list(ids)
    for _ in range(steps):
        last = model(torch.tensor([run]), use_cache=False).logits[0, -1].double()
        two = last.topk(2)
        greedy.append(int(two.indices[0]))
        gaps.append(digits(two.values[0] - two.values[1], 4))
        run.append(greedy[-1])
    return {
        "name": name, "text": text, "ids": ids, "residual_l2": norms,
        "top": [[int(i), digits(v)] for i, v in zip(top.indices, top.values)],
        "greedy": greedy, "gap": gaps, "greedy_text": tok.decode(greedy, skip_special_tokens=False),
    }


def make(path, out, prompts, steps=64):
    torch.manual_seed(0)
    model, tok, cfg, kinds = read_model(path)
    data = {
        "about": "transformers Qwen3MoeForCausalLM, fp32, eager attention, dequantised weights",
        "config": cfg, "tensor_types": kinds,
        "cases": [case(model, tok, n, t, steps) for n, t in prompts.items()],
    }
    with open(out, "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    return data


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("model")
    ap.add_argument("out")
    ap.add_argument("--steps", type=int, default=64)
    args = ap.parse_args()
    for c in make(args.model, args.out, PROMPTS, args.steps)["cases"]:
        print(f"{c['name']}: {len(c['ids'])} tokens, smallest gap {min(c['gap'])}")
        print("  " + c["greedy_text"].replace("\n", "\\n"))


if __name__ == "__main__":
    main()
