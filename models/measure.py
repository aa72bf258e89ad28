# SPDX-License-Identifier: MIT
"""Measure a model in transformers: held-out loss, and answers to models/prompts.json.

    python3 models/measure.py MODEL.gguf [--window 1024] [--no-answers]

reads a GGUF file of any types, dequantised, and computes in fp32; `train.py` calls the functions.
"""

import argparse
import json
import os

import torch
import torch.nn.functional as F

import judge


@torch.no_grad()
def held_out(model, chunks, device):
    """Mean loss in nats per token over held-out rows."""
    model.eval()
    total = count = 0
    for rows in chunks:
        rows = torch.from_numpy(rows).to(device).long()
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(rows, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), rows[:, 1:].flatten())
        total += float(loss) * rows.shape[0]
        count += rows.shape[0]
    return {"held_out_loss": round(total / count, 4)}


@torch.no_grad()
def answers(model, tok, items, device, temperature=0.0, most=420, exact=False):
    """Answers to all prompts in one batch; greedy unless a temperature is given."""
    prompts = [tok.encode(judge.chatml(i["messages"])).ids for i in items]
    end, pad = tok.token_to_id("<|im_end|>"), tok.token_to_id("<|endoftext|>")
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    how = dict(do_sample=True, temperature=temperature, top_k=0) if temperature else dict(
        do_sample=False)
    model.eval()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=not exact):
        out = model.generate(ids, attention_mask=mask, max_new_tokens=most, eos_token_id=[end, pad],
                             pad_token_id=pad, **how)
    texts = [tok.decode(row, skip_special_tokens=False) for row in out[:, width:].tolist()]
    return {i["id"]: t.split("<|im_end|>")[0].split("<|endoftext|>")[0]
            for i, t in zip(items, texts)}


def all_answers(model, tok, items, device, temperature=0.0, exact=False):
    """Answers to every prompt, with room for a story only where one is asked for."""
    told = {}
    for kind, most in (("story", 420), ("strange", 420), ("sum", 16), ("question", 32)):
        some = [i for i in items if i["kind"] == kind]
        told.update(answers(model, tok, some, device, temperature, most, exact))
    return told


def judged(model, tok, device, out):
    """Greedy and sampled shares of right answers; the answers go into a file of their own."""
    items = judge.load()
    data = {}
    for name, temperature in (("greedy", 0.0), ("sampled at 0.8", 0.8)):
        told = all_answers(model, tok, items, device, temperature)
        data[name] = judge.report(items, told)
        data[name]["wrong"] = data[name]["wrong"][:20]
        print(name, json.dumps(data[name]["shares"]), flush=True)
        mark = "greedy" if not temperature else "sampled"
        with open(os.path.join(out, f"answers-{mark}.jsonl"), "w", encoding="utf-8") as f:
            for key, text in told.items():
                f.write(json.dumps({"id": key, "answer": text}, ensure_ascii=False) + "\n")
    return data


@torch.no_grad()
def file_loss(model, tok, path, window):
    """Mean nats per token over a text file, cut into windows that share no tokens.

    The first token of a window is given, not predicted.
    """
    with open(path, encoding="utf-8", newline="") as f:
        ids = tok.encode(f.read()).ids
    total = count = 0
    for at in range(0, len(ids) - 1, window):
        row = torch.tensor([ids[at:at + window]])
        if row.shape[1] < 2:
            break
        logits = model(row, use_cache=False).logits[0, :-1].double()
        total += float(F.cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += row.shape[1] - 1
    return {"tokens": len(ids), "predicted": count, "nats_per_token": round(total / count, 6)}


def main():
    import fixtures
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--text", default=os.path.join(judge.HERE, "heldout.txt"))
    ap.add_argument("--window", type=int, default=1024)
    ap.add_argument("--no-answers", action="store_true")
    args = ap.parse_args()
    model, tok, _cfg, kinds = fixtures.read_model(args.model)
    print(json.dumps({"tensor_types": kinds, **file_loss(model, tok, args.text, args.window)}))
    if not args.no_answers:
        items = judge.load()
        told = all_answers(model, tok, items, "cpu", exact=True)
        print(json.dumps(judge.report(items, told)["shares"]))


if __name__ == "__main__":
    main()
