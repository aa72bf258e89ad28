# SPDX-License-Identifier: MIT
"""Train the demo model: python3 models/train.py --out DIR --max-minutes 8

Needs PyTorch, transformers and one GPU. Text is made on the fly by worker processes, always in the
same order, so a run of N steps sees the same tokens everywhere. The model is transformers' own
Qwen3MoeForCausalLM, which makes an implementation nobody here wrote the reference for ours.

DIR receives weights-*.safetensors (matrices rounded to BF16 values), tokenizer.json, config.json
and report.json. `--resume FILE` goes on from a checkpoint that `--save FILE` wrote.
"""

import argparse
import collections
import json
import math
import multiprocessing as mp
import os
import time

import names  # noqa: I001  (sets the offline switches before transformers is imported)
import bpe
import stories
import words as w

ROW, VOCAB = 1024, 3072
TOKENIZER_SEED, TEXT_SEED, HELD_SEED = 7, 1000000, 5000000
HERE = os.path.dirname(os.path.abspath(__file__))
START = time.time()


def make_tokenizer():
    """Train on enough text that every word has been seen, and on many made-up names."""
    rng = w.Rng(TOKENIZER_SEED)
    return bpe.train([stories.document(rng) for _ in range(30000)], VOCAB)


def chunk(job):
    """Rows of token ids from one seed. Each row begins with a whole document."""
    import numpy as np
    path, seed, split, rows = job
    tok = chunk.cache.setdefault(path, bpe.load(path))
    end = tok.token_to_id(stories.END)
    rng = w.Rng(seed * 0x51ED2701)
    out = np.empty((rows, ROW), dtype=np.uint16)
    for r in range(rows):
        line = []
        while len(line) < ROW:
            line += tok.encode(stories.document(rng, split)).ids
            line.append(end)
        out[r] = line[:ROW]
    return out


chunk.cache = {}


def batches(pool, path, rows, first):
    """Batches in order of their seeds; the workers stay at most 48 batches ahead."""
    ahead, number = collections.deque(), first
    while True:
        while len(ahead) < 48:
            job = (path, TEXT_SEED + number, "train", rows)
            ahead.append(pool.apply_async(chunk, (job,)))
            number += 1
        yield ahead.popleft().get()


def parameters(model):
    """Weight decay on matrices only."""
    decay = [p for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.dim() <= 1 or "embed" in n]
    return [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]


class Balance:
    """Load of the experts, layer by layer, from the inputs of the routers."""

    def __init__(self, model, used):
        self.used, self.seen = used, []
        for layer in model.model.layers:
            layer.mlp.gate.register_forward_hook(self.note)

    def note(self, gate, args, _out):
        x = args[0].reshape(-1, args[0].shape[-1])
        self.seen.append((x.float() @ gate.weight.float().t()).softmax(-1))

    def loss(self):
        """The usual auxiliary loss (experts x share of tokens x mean probability) and the loads."""
        import torch
        total, loads = 0.0, []
        for p in self.seen:
            top = p.detach().topk(self.used, -1).indices
            share = torch.bincount(top.flatten(), minlength=p.shape[1]).float() / top.numel()
            total = total + p.shape[1] * (share * p.mean(0)).sum()
            loads.append(share * p.shape[1])
        self.seen = []
        return total / len(loads), torch.stack(loads)


def rate(step, progress, peak):
    """Warm-up over 150 steps, then a cosine down to one tenth."""
    warm = min(1.0, (step + 1) / 150)
    return peak * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(args, model, pool, path, device):
    import torch
    import torch.nn.functional as F
    opt = torch.optim.AdamW(parameters(model), lr=args.peak, betas=(0.9, 0.95), eps=1e-8,
                            fused=device == "cuda")
    done = 0
    if args.resume:
        state = torch.load(args.resume, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        done = state["step"]
    balance = Balance(model, model.config.num_experts_per_tok)
    feed, begin, log, first = batches(pool, path, args.batch, done), time.time(), [], done
    limit = args.max_minutes * 60 - (begin - START)
    model.train()
    for step in range(args.steps):
        progress = max(step / args.steps, (time.time() - begin) / limit)
        if progress >= 1:
            break
        for group in opt.param_groups:
            group["lr"] = rate(step, progress, args.peak)
        rows = torch.from_numpy(next(feed)).to(device).long()
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(rows, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), rows[:, 1:].flatten())
        aux, loads = balance.loss()
        (loss + 0.01 * aux).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        done = first + step + 1
        opt.zero_grad(set_to_none=True)
        if step % 200 == 0 or step < 3:
            log.append([done, round(loss.item(), 4)])
            print(f"step {done} loss {loss.item():.4f} aux {aux.item():.3f} norm "
                  f"{float(norm):.2f} load {float(loads.min()):.2f}..{float(loads.max()):.2f} "
                  f"{time.time() - begin:.0f}s", flush=True)
    if args.save:
        torch.save({"model": model.state_dict(), "opt": opt.state_dict(), "step": done}, args.save)
    return done, log, loads


def save(model, cfg, tok, out):
    """Round matrices to BF16 values (in the model too) and write pieces of at most 15 MiB."""
    import torch
    from safetensors.torch import save_file
    pieces, size = [{}], 0
    with torch.no_grad():
        for name, p in model.named_parameters():
            keep = p.dim() == 1 or name.endswith("mlp.gate.weight")
            value = p.detach().float().cpu() if keep else p.detach().to(torch.bfloat16).cpu()
            p.copy_(value.to(p.device, p.dtype))
            length = value.numel() * value.element_size()
            if size + length > 15 << 20:
                pieces.append({})
                size = 0
            pieces[-1][name] = value.contiguous()
            size += length
    for i, piece in enumerate(pieces):
        save_file(piece, os.path.join(out, f"weights-{i}.safetensors"))
    tok.save(os.path.join(out, "tokenizer.json"))
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(cfg, f, indent=1)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--out", required=True)
    ap.add_argument("--max-minutes", type=float, default=8.0)
    ap.add_argument("--steps", type=int, default=100000)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--peak", type=float, default=2e-3)
    ap.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    ap.add_argument("--experts-how", default="grouped_mm")
    ap.add_argument("--resume")
    ap.add_argument("--save")
    args = ap.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(HERE, "tokenizer.json")
    if not os.path.exists(path):
        make_tokenizer().save(path)
    tok = bpe.load(path)
    pool = mp.get_context("fork").Pool(args.workers)
    held = [pool.apply_async(chunk, ((path, HELD_SEED + i, "heldout", 16),)) for i in range(8)]

    import torch
    import measure
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = names.config(vocab=tok.get_vocab_size(), hidden=256, layers=6, heads=8, kv_heads=2,
                       head_dim=64, experts=12, used=2, width=256, context=ROW, theta=10000.0)
    model = names.hf_model(cfg, attn_implementation="sdpa").to(device)
    model.set_experts_implementation(args.experts_how)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, ready after {time.time() - START:.0f}s", flush=True)
    step, log, loads = train(args, model, pool, path, device)
    save(model, cfg, tok, args.out)
    data = {"parameters": count, "steps": step, "tokens": step * args.batch * ROW, "losses": log,
            "expert_load": [[round(x, 2) for x in row] for row in loads.tolist()]}
    data.update(measure.held_out(model, [h.get() for h in held], device))
    print(json.dumps({k: v for k, v in data.items() if k != "losses"}), flush=True)
    pool.terminate()
    report = os.path.join(args.out, "report.json")
    with open(report, "w", encoding="utf-8") as f:
        json.dump(data, f, indent=1)
    data.update(measure.judged(model, tok, device, args.out))
    data["seconds"] = round(time.time() - START)
    with open(report, "w", encoding="utf-8") as f:
        json.dump(data, f, indent=1)


if __name__ == "__main__":
    main()
