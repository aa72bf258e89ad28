# SPDX-License-Identifier: MIT
"""Tensor names and settings of a qwen3moe model, in the transformers form and in the GGUF form.

A checkpoint here is a dict of numpy arrays with the names that `Qwen3MoeForCausalLM` gives its
parameters (experts stacked: `gate_up_proj` [E, 2F, D] with the gate rows first, `down_proj`
[E, D, F]). GGUF keeps gate and up apart; everything else is a renaming.
"""

import os

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("USE_HUB_KERNELS", "NO")

GLOBAL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}
GATE_UP = "mlp.experts.gate_up_proj"


def config(vocab, hidden, layers, heads, kv_heads, head_dim, experts, used, width, context, theta):
    """The settings of one model, as a plain dict that goes into config.json."""
    return dict(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, num_experts=experts,
        num_experts_per_tok=used, moe_intermediate_size=width, intermediate_size=width,
        max_position_embeddings=context, rope_theta=theta, rms_norm_eps=1e-6)


def hf_model(cfg, **more):
    """A `Qwen3MoeForCausalLM` of these settings, with fresh weights."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    rest = {k: v for k, v in cfg.items() if k != "rope_theta"}
    conf = Qwen3MoeConfig(
        **rest, rope_parameters={"rope_type": "default", "rope_theta": cfg["rope_theta"]},
        norm_topk_prob=True, tie_word_embeddings=False, attention_bias=False,
        decoder_sparse_step=1, mlp_only_layers=[], hidden_act="silu", **more)
    return Qwen3MoeForCausalLM(conf)


def to_gguf(weights, layers):
    """Yield (GGUF name, array) in the order of the file; no parameter may be left over."""
    left = set(weights)

    def take(name):
        left.remove(name)
        return weights[name]

    yield GLOBAL["model.embed_tokens.weight"], take("model.embed_tokens.weight")
    for n in range(layers):
        for ours, theirs in LAYER.items():
            if ours == "mlp.experts.down_proj":
                both = take(f"model.layers.{n}.{GATE_UP}")
                half = both.shape[1] // 2
                yield f"blk.{n}.ffn_gate_exps.weight", both[:, :half]
                yield f"blk.{n}.ffn_up_exps.weight", both[:, half:]
            yield f"blk.{n}.{theirs}", take(f"model.layers.{n}.{ours}")
    yield "output_norm.weight", take("model.norm.weight")
    yield "output.weight", take("lm_head.weight")
    assert not left, sorted(left)


def from_gguf(tensors, layers):
    """The inverse: a dict of transformers names from a dict of GGUF names."""
    out = {ours: tensors[theirs] for ours, theirs in GLOBAL.items()}
    for n in range(layers):
        for ours, theirs in LAYER.items():
            out[f"model.layers.{n}.{ours}"] = tensors[f"blk.{n}.{theirs}"]
        out[f"model.layers.{n}.{GATE_UP}"] = np.concatenate(
            [tensors[f"blk.{n}.ffn_gate_exps.weight"], tensors[f"blk.{n}.ffn_up_exps.weight"]],
            axis=1)
    return out
