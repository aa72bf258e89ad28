# SPDX-License-Identifier: MIT
"""Write models/heldout.txt and models/prompts.json: python3 models/heldout.py

The text is for `gqmm eval`, the prompts are for `judge.py`. Both come from the held-out split:
no story of these heroes was told in these schemas in training. All sums are asked; those that
training showed carry "seen": true.
"""

import json
import os

import stories
import words as w

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT_SEED, STORY_SEED, QUESTION_SEED = 900001, 900002, 900003


def held_out_text(size=60000):
    """Whole documents of both forms, about `size` bytes, each closed by its end mark."""
    rng, out = w.Rng(TEXT_SEED), ""
    while len(out) < size:
        out += stories.document(rng, "heldout") + stories.END
    return out


def story_prompts(n=200):
    rng = w.Rng(STORY_SEED)
    for i in range(n):
        ask, must = stories.request(rng, stories.tale(rng, "heldout"))
        yield {"id": f"story-{i}", "kind": "story", "expect": must,
               "messages": [{"role": "user", "content": ask}]}


def strange_prompts(n=100):
    """Requests with names, objects and animals that occur nowhere in training."""
    rng = w.Rng(STORY_SEED + 7)
    for i in range(n):
        ask, must = stories.request(rng, stories.tale(rng, "heldout", odd=True))
        yield {"id": f"strange-{i}", "kind": "strange", "expect": must,
               "messages": [{"role": "user", "content": ask}]}


def sum_prompts():
    """Every sum once; the ones kept back from training are marked."""
    for sign in ("plus", "minus"):
        for a in range(21):
            for b in range(a + 1 if sign == "minus" else 21):
                total = a + b if sign == "plus" else a - b
                yield {"id": f"{a}-{sign}-{b}", "kind": "sum", "expect": [w.number(total)],
                       "seen": not stories.kept_back(sign, a, b),
                       "messages": [{"role": "user", "content":
                                     f"What is {w.number(a)} {sign} {w.number(b)}?"}]}


def question_prompts(n=120):
    rng = w.Rng(QUESTION_SEED)
    for i in range(n):
        s = stories.tale(rng, "heldout")
        ask, _ = stories.request(rng, s)
        question, _, key = rng.pick(s.facts)
        yield {"id": f"question-{i}", "kind": "question", "expect": [key],
               "messages": [{"role": "user", "content": ask},
                            {"role": "assistant", "content": s.text()},
                            {"role": "user", "content": question}]}


def main():
    with open(os.path.join(HERE, "heldout.txt"), "w", encoding="utf-8") as f:
        f.write(held_out_text())
    items = [*story_prompts(), *strange_prompts(), *sum_prompts(), *question_prompts()]
    with open(os.path.join(HERE, "prompts.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(x, ensure_ascii=False) for x in items) + "\n]\n")
    print(len(items), "prompts")


if __name__ == "__main__":
    main()
