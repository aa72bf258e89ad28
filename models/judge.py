# SPDX-License-Identifier: MIT
"""Judge answers to models/prompts.json: are hero and object there, is the sum right, ...?

    python3 models/judge.py --command 'gqmm run MODEL.gguf --temp 0 -p {prompt}'
    python3 models/judge.py --answers answers.jsonl

A command runs once for each prompt: `{prompt}` stands for the whole ChatML text, `{user}` for the
last user turn alone (then only prompts of one turn are asked); its standard output is the answer.
A file of answers holds one JSON object a line, {"id": ..., "answer": ...}. The report is JSON.
"""

import argparse
import json
import os
import re
import shlex
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))


def chatml(messages):
    """The prompt of a chat, ready for the assistant's next turn."""
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + "<|im_start|>assistant\n"


def has(text, phrase):
    return re.search(rf"(?<![\w-]){re.escape(phrase.lower())}(?![\w-])", text.lower()) is not None


def right(item, answer):
    """Is this answer what the prompt asked for?"""
    answer = answer.split("<|im_end|>")[0].strip()
    if item["kind"] in ("story", "strange"):
        return len(answer.split()) >= 60 and all(has(answer, x) for x in item["expect"])
    if item["kind"] == "sum":
        found = re.search(r"\bis ([a-z-]+)", answer)
        return found is not None and found.group(1) == item["expect"][0]
    return len(answer.split()) <= 25 and all(has(answer, x) for x in item["expect"])


def report(items, answers):
    """Shares of right answers by kind; sums are told apart by whether training showed them."""
    kinds, wrong = {}, []
    for item in items:
        if item["id"] not in answers:
            continue
        good = right(item, answers[item["id"]])
        names = [item["kind"]]
        if item["kind"] == "sum":
            names.append("sum, in training" if item["seen"] else "sum, held out")
        for name in names:
            n, k = kinds.get(name, (0, 0))
            kinds[name] = (n + 1, k + good)
        if not good:
            wrong.append({"id": item["id"], "user": item["messages"][-1]["content"],
                          "expect": item["expect"], "answer": answers[item["id"]]})
    shares = {n: {"asked": a, "right": k, "share": round(k / a, 4)} for n, (a, k) in kinds.items()}
    return {"shares": shares, "wrong": wrong}


def load(path=os.path.join(HERE, "prompts.json")):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def ask(command, item):
    """Run the command for one prompt; None if its form cannot carry the prompt."""
    if "{user}" in command and len(item["messages"]) > 1:
        return None
    fill = {"{prompt}": chatml(item["messages"]), "{user}": item["messages"][-1]["content"]}
    words = [fill.get(x, x) for x in shlex.split(command)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--command")
    ap.add_argument("--answers")
    ap.add_argument("--limit", type=int, default=0, help="ask at most so many prompts of a kind")
    ap.add_argument("--show-wrong", type=int, default=5)
    args = ap.parse_args()
    items, answers, taken = load(), {}, {}
    if args.answers:
        with open(args.answers, encoding="utf-8") as f:
            for line in f:
                one = json.loads(line)
                answers[one["id"]] = one["answer"]
    elif args.command:
        for item in items:
            taken[item["kind"]] = taken.get(item["kind"], 0) + 1
            if args.limit and taken[item["kind"]] > args.limit:
                continue
            answer = ask(args.command, item)
            if answer is not None:
                answers[item["id"]] = answer
    else:
        ap.error("--command or --answers")
    result = report(items, answers)
    result["wrong"] = result["wrong"][:args.show_wrong]
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
