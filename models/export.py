# SPDX-License-Identifier: MIT
"""Write a GGUF file from the trained pieces: python3 models/export.py WEIGHTS_DIR OUT.gguf

WEIGHTS_DIR holds config.json, tokenizer.json and weights-*.safetensors as `train.py` leaves them.
Norms and the router stay F32 in either type. The published weights are rounded to BF16 values
at the end of training, so `--type f32` and `--type bf16` hold the same numbers.
"""

import argparse
import glob
import json
import os

import gguf
import numpy as np

import bpe
import names

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def add_settings(w, cfg, name, license_name):
    w.add_name(name)
    w.add_license(license_name)
    w.add_block_count(cfg["num_hidden_layers"])
    w.add_context_length(cfg["max_position_embeddings"])
    w.add_embedding_length(cfg["hidden_size"])
    w.add_feed_forward_length(cfg["intermediate_size"])
    w.add_head_count(cfg["num_attention_heads"])
    w.add_head_count_kv(cfg["num_key_value_heads"])
    w.add_key_length(cfg["head_dim"])
    w.add_value_length(cfg["head_dim"])
    w.add_layer_norm_rms_eps(cfg["rms_norm_eps"])
    w.add_rope_freq_base(cfg["rope_theta"])
    w.add_expert_count(cfg["num_experts"])
    w.add_expert_used_count(cfg["num_experts_per_tok"])
    w.add_expert_feed_forward_length(cfg["moe_intermediate_size"])
    w.add_vocab_size(cfg["vocab_size"])


def add_tokenizer(w, tok):
    tokens, merges, special = bpe.parts(tok)
    control = set(special.values())
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([3 if i in control else 1 for i in range(len(tokens))])
    w.add_token_merges(merges)
    w.add_bos_token_id(special["<|endoftext|>"])
    w.add_eos_token_id(special["<|im_end|>"])
    w.add_pad_token_id(special["<|endoftext|>"])
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)


def write(path, weights, cfg, tok, name, kind="f32"):
    """Write one file; `weights` is a dict of float32 numpy arrays with the transformers names."""
    w = gguf.GGUFWriter(path, "qwen3moe")
    add_settings(w, cfg, name, "MIT")
    w.add_file_type({"f32": 0, "bf16": 32}[kind])
    w.add_quantization_version(2)
    add_tokenizer(w, tok)
    for tensor, value in names.to_gguf(weights, cfg["num_hidden_layers"]):
        value = np.ascontiguousarray(value, dtype=np.float32)
        plain = value.ndim == 1 or tensor.endswith("ffn_gate_inp.weight")
        if kind == "f32" or plain:
            w.add_tensor(tensor, value)
        else:
            packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.BF16)
            w.add_tensor(tensor, packed, raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def load_pieces(folder):
    """(weights as float32, settings, tokenizer) of a folder that `train.py` wrote."""
    from safetensors.torch import load_file
    weights = {}
    for piece in sorted(glob.glob(os.path.join(folder, "weights-*.safetensors"))):
        for key, value in load_file(piece).items():
            weights[key] = value.float().numpy()
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        cfg = json.load(f)
    return weights, cfg, bpe.load(os.path.join(folder, "tokenizer.json"))


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("weights")
    ap.add_argument("out")
    ap.add_argument("--type", choices=("f32", "bf16"), default="f32")
    ap.add_argument("--name", default="gqmm stories")
    args = ap.parse_args()
    weights, cfg, tok = load_pieces(args.weights)
    write(args.out, weights, cfg, tok, args.name, args.type)
    count = sum(v.size for v in weights.values())
    print(f"{args.out}: {count} parameters, {os.path.getsize(args.out)} bytes")


if __name__ == "__main__":
    main()
