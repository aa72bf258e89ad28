#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Pictures of measurements: JSON lines in, SVG out.

    gqmm bench moe --json > moe.jsonl && python bench/plot.py roofline moe.jsonl -o roofline.svg
    python bench/peers.py --json > peers.jsonl && python bench/plot.py ratio peers.jsonl

roofline: rows of `gqmm bench` over the ceilings of the same run, multiply-adds per second against
multiply-adds per byte. ratio: rows of bench/peers.py, how many times faster gqmm is than the best
peer of each row, or than each peer with --each. Without -o the picture goes into bench/results/.
Needs matplotlib.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
COLOURS = ["#0b6e99", "#c2571a", "#4f7d2c", "#8c4a8c", "#a68a00", "#b03a48", "#4d5566", "#2f9c95"]
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
         "svg.fonttype": "path", "svg.hashsalt": "gqmm", "figure.figsize": (8, 4.8)}


def read(paths):
    """All rows, of "-" those of standard input."""
    rows = []
    for path in paths:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        rows += [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return rows


def subtitle(rows):
    machine = rows[0].get("machine", {})
    parts = [machine.get("cpu"), f"{rows[0]['threads']} threads", rows[0]["shape"],
             rows[0]["precision"], f"commit {machine['commit']}" if machine.get("commit") else None]
    return ", ".join(p for p in parts if p)


def group(rows, key):
    found = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def draw_roofs(axes, rows, low, high):
    """The DRAM slope and the compute roofs, each the median over the rows."""
    ceilings = [row["ceilings"] for row in rows]
    middle = sorted(row["dram_gbs"] for row in rows)[len(rows) // 2]
    int8 = max(c["int8_gmacs"][1] for c in ceilings)
    fp32 = max(c["fp32_gmacs"][1] for c in ceilings)
    xs = [low, int8 / middle, high]
    axes.plot(xs, [low * middle, int8, int8], color="#333333", linewidth=1.4)
    axes.hlines(fp32, fp32 / middle, high, color="#888888", linewidth=1, linestyle="--")
    axes.annotate(f"int8 {int8:.0f} G/s", (high, int8), xytext=(0, 4), ha="right",
                  textcoords="offset points", color="#333333")
    axes.annotate(f"fp32 {fp32:.0f} G/s", (high, fp32), xytext=(0, 4), ha="right",
                  textcoords="offset points", color="#666666")
    axes.annotate(f"DRAM {middle:.0f} GB/s", (low, low * middle), xytext=(16, 0),
                  textcoords="offset points", color="#333333")


def roofline(rows):
    rows = [r for r in rows if r.get("macs", 0) > 0 and "ceilings" in r]
    if not rows:
        raise SystemExit("no rows of moe, gather or qmm")
    figure, axes = plt.subplots()
    intensities = [r["macs"] / r["bytes"] for r in rows]
    low, high = min(intensities) / 2, max(intensities) * 3
    # Where compute is the limit must be seen too.
    high = max(high, 4 * max(r["ceilings"]["int8_gmacs"][1] / r["dram_gbs"] for r in rows))
    draw_roofs(axes, rows, low, high)
    groups = group(rows, lambda r: (r["op"], r["format"], r["isa"]))
    for (name, of_one), colour in zip(groups.items(), COLOURS * 8):
        x = [r["macs"] / r["bytes"] for r in of_one]
        y = [r["macs"] / r["us"] / 1e3 for r in of_one]
        axes.plot(x, y, "o-", color=colour, markersize=5, linewidth=1, label=" ".join(name))
        for r, px, py in zip(of_one, x, y):
            axes.annotate(f"{r['tokens']}", (px, py), xytext=(0, -13), ha="center",
                          textcoords="offset points", fontsize=8, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds per byte of weights and activations",
             ylabel="10\u2079 multiply-adds per second")
    axes.legend(loc="lower right", frameon=False)
    figure.suptitle("Share of what the machine can do; numbers are tokens", x=0.02, ha="left",
                    fontweight="bold")
    axes.set_title(subtitle(rows), loc="left", fontsize=9, color="#555555")
    return figure


def ratios(rows, each):
    """(format, side) to a list of (tokens, ratio), side "best" unless `each`."""
    found = defaultdict(list)
    for (name, tokens), of_one in group(rows, lambda r: (r["format"], r["tokens"])).items():
        peers = [(r["side"], r["ratio"]) for r in of_one if r["side"] != "gqmm"]
        if not each and peers:
            peers = [("best peer", min(ratio for _, ratio in peers))]
        for side, ratio in peers:
            found[name, side].append((tokens, ratio))
    return found


def ratio(rows, each):
    rows = [r for r in rows if "side" in r and "format" in r]
    found = ratios(rows, each)
    if not found:
        raise SystemExit("no rows of bench/peers.py with a peer")
    figure, axes = plt.subplots()
    tokens = sorted({t for pairs in found.values() for t, _ in pairs})
    width = 0.8 / len(found)
    for i, ((name, side), pairs) in enumerate(sorted(found.items())):
        xs = [tokens.index(t) - 0.4 + (i + 0.5) * width for t, _ in pairs]
        bars = axes.bar(xs, [v for _, v in pairs], width * 0.92, color=COLOURS[i % len(COLOURS)],
                        label=f"{name} against {side}")
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes.axhline(1, color="#333333", linewidth=1.2)
    axes.grid(axis="x", visible=False)
    axes.set_xticks(range(len(tokens)), [str(t) for t in tokens])
    axes.set(xlabel="tokens", ylabel="time of the peer / time of gqmm")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    figure.suptitle("Times faster than the peers (above 1: gqmm is faster)", x=0.02, ha="left",
                    fontweight="bold")
    axes.set_title(subtitle(rows), loc="left", fontsize=9, color="#555555")
    return figure


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("kind", choices=("roofline", "ratio"))
    p.add_argument("files", nargs="+", help="JSON lines; - is standard input")
    p.add_argument("-o", "--output", help="an SVG file (or .png), else bench/results/KIND.svg")
    p.add_argument("--each", action="store_true", help="ratio: every peer, not the best one")
    args = p.parse_args()
    plt.rcParams.update(STYLE)
    rows = read(args.files)
    figure = roofline(rows) if args.kind == "roofline" else ratio(rows, args.each)
    output = Path(args.output) if args.output else RESULTS / f"{args.kind}.svg"
    output.parent.mkdir(parents=True, exist_ok=True)
    meta = {"Date": None} if output.suffix == ".svg" else None
    figure.savefig(output, bbox_inches="tight", metadata=meta, dpi=110)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
