# SPDX-License-Identifier: MIT
# %% [markdown]
# A model of transformers, its experts and linears quantised in place: the same text, faster.
# The model is that of models/, whose GGUF file is first turned into a plain float32 model.
#     python python/examples/torch_user.py [TOKENS] [DEVICE]
# needs: pip install torch transformers

# %%
import sys
import time
from pathlib import Path

import torch

import gqmm
import gqmm.torch

root = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "models"))
import bpe  # noqa: E402
import names  # noqa: E402

tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 60
device = sys.argv[2] if len(sys.argv) > 2 else "cpu"  # "cuda" with a gqmm that was built for it

# %% The float32 twin
file = gqmm.load(root / "models" / "stories-q4_k_m.gguf")
meta = file.metadata
key = {k.split(".", 1)[1]: v for k, v in meta.items() if k.startswith("qwen3moe.")}
config = names.config(
    vocab=len(meta["tokenizer.ggml.tokens"]), hidden=key["embedding_length"],
    layers=key["block_count"], heads=key["attention.head_count"],
    kv_heads=key["attention.head_count_kv"], head_dim=key["attention.key_length"],
    experts=key["expert_count"], used=key["expert_used_count"],
    width=key["expert_feed_forward_length"], context=key["context_length"],
    theta=key["rope.freq_base"])
config["rms_norm_eps"] = key["attention.layer_norm_rms_epsilon"]
floats = {}
for name, tensor in file.tensors.items():
    w = file[name]
    floats[name] = w.dequantize().reshape(tensor.shape) if isinstance(w, gqmm.Weights) else w
state = names.from_gguf(floats, config["num_hidden_layers"])
model = names.hf_model(config).float().eval().to(device)
model.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
tokenizer = bpe.from_parts(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.merges"])
prompt = ("<|im_start|>user\nTell me a story about a girl called Mira and a lantern.<|im_end|>\n"
          "<|im_start|>assistant\n")
ids = torch.tensor([tokenizer.encode(prompt).ids], device=device)


def generate():
    """(text, tokens per second), greedy."""
    with torch.no_grad():
        model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        begin = time.perf_counter()
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    seconds = time.perf_counter() - begin
    made = out[0, ids.shape[1]:]
    return tokenizer.decode(made.tolist()), len(made) / seconds


def size():
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


# %% Before
text, rate = generate()
print(f"float32: {rate:.1f} tokens/s, {size() / 2**20:.1f} MiB\n{text}")

# %% The one line; routers and the head stay as they are
done = gqmm.torch.quantize_model(model, experts="q8_0", linears="q8_0", precision="int8")
print(f"replaced {sum(f == 'q8_0' for f in done.values())} modules")

# %% After
again, faster = generate()
print(f"q8_0:    {faster:.1f} tokens/s, {size() / 2**20:.1f} MiB\n{again}")
print("the same text" if again == text else "another text")
