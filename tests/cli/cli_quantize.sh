#!/bin/bash
# SPDX-License-Identifier: MIT
# gqmm quantize: every type runs, the rules of the mixes, and outputs that are whole or not there.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/cli/lib.sh

for type in q4_k_m q4_k_s q5_k_m q5_k_s mxfp4_moe q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k \
    iq4_nl iq4_xs mxfp4 nvfp4 f32 f16 bf16; do
    if run 0 "$gqmm" quantize "$tiny" "$tmp/$type.gguf" --type $type --stats &&
        run 0 "$gqmm" run "$tmp/$type.gguf" -p "One day" -n 4 --temp 0; then
        ok "quantize to $type and run"
    else
        failed "quantize to $type and run" "$(said)"
    fi
done
expect "no temporary files are left" sh -c "! ls '$tmp' | grep -q 'tmp'"
for type in q8_0 q4_0 f16; do
    expect "quantize $type to f32 and back" \
        "$gqmm" quantize "$tmp/$type.gguf" "$tmp/back-$type.gguf" --type f32
    "$gqmm" quantize "$tmp/back-$type.gguf" "$tmp/again-$type.gguf" --type $type >/dev/null 2>&1
    expect "quantize $type: twice is once" cmp -s "$tmp/$type.gguf" "$tmp/again-$type.gguf"
done
"$gqmm" quantize "$tiny" "$tmp/one.gguf" --type q4_k_m --threads 1 >/dev/null 2>&1
expect "quantize: same bytes with one thread" cmp -s "$tmp/one.gguf" "$tmp/q4_k_m.gguf"
cp "$tmp/one.gguf" "$tmp/keep.gguf"
refuses "no overwrite without --force" 1 "one.gguf" \
    "$gqmm" quantize "$tiny" "$tmp/one.gguf" --type q8_0
expect "the file is as it was" cmp -s "$tmp/one.gguf" "$tmp/keep.gguf"
expect "--force overwrites" "$gqmm" quantize "$tiny" "$tmp/one.gguf" --type q8_0 --force
expect "and it is the new file" cmp -s "$tmp/one.gguf" "$tmp/q8_0.gguf"
refuses "input is output" 1 "are the same file" \
    "$gqmm" quantize "$tmp/one.gguf" "$tmp/../${tmp##*/}/one.gguf" --type q4_0 --force
expect "the input is as it was" cmp -s "$tmp/one.gguf" "$tmp/q8_0.gguf"
refuses "output in no directory" 1 "No such file or directory" \
    "$gqmm" quantize "$tiny" "$tmp/no/where.gguf" --type q8_0
refuses "output where nothing can be written" 1 "/proc/x.gguf" \
    "$gqmm" quantize "$tiny" /proc/x.gguf --type q8_0
if [ "$(id -u)" != 0 ]; then
    mkdir "$tmp/closed"
    chmod 500 "$tmp/closed"
    refuses "output directory without permission" 1 "Permission denied" \
        "$gqmm" quantize "$tiny" "$tmp/closed/x.gguf" --type q8_0
fi
mkdir "$tmp/full"
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=64k tmpfs "$tmp/full" 2>/dev/null; then
    mounted=$tmp/full
    refuses "disk full" 1 "No space left on device" \
        "$gqmm" quantize "$tiny" "$tmp/full/x.gguf" --type f16
    expect "disk full leaves nothing" test -z "$(ls -A "$tmp/full")"
    umount "$tmp/full" && mounted=
else
    skipped "disk full" "a small file system cannot be mounted here"
fi
# A limit on file sizes is the same to the writer as a full disk.
run 1 bash -c "trap '' XFSZ; ulimit -f 64; exec '$gqmm' quantize '$tiny' '$tmp/full/x.gguf' --type f16"
expect "a file size limit is an error" grep -q 'File too large' "$tmp/err"
expect "and leaves nothing" test -z "$(ls -A "$tmp/full")"

if command -v python3 >/dev/null; then
    json "quantize --json" 'd["bytes_after"] < d["bytes_before"] and d["groups"]["norms"]' \
        "$gqmm" quantize "$tiny" "$tmp/one.gguf" --type q8_0 --force --json --stats
    json "file_type is set" \
        '{m["key"]: m["value"] for m in d["metadata"]}["general.file_type"] == 15' \
        "$gqmm" inspect "$tmp/q4_k_m.gguf" --json
    json "the vocabulary is copied" \
        '{m["key"]: m["value"] for m in d["metadata"]}["tokenizer.ggml.tokens"]["items"] == 320' \
        "$gqmm" inspect "$tmp/q4_k_m.gguf" --json
    # Rows of 64 are too short for K-quants: the table of fallbacks speaks.
    json "fallbacks" \
        'd["groups"]["output"]["types"] == ["Q8_0"] and d["groups"]["embedding"]["types"] == ["Q5_0"]' \
        "$gqmm" inspect "$tmp/q4_k_m.gguf" --json
fi

# The rules of the mixes, on files of one row per matrix: LAYERS EXPERTS TIED.
skeleton() {
    python3 - "$tmp/skeleton.gguf" "$@" <<'PYTHON'
import struct, sys
out, layers, experts, tied = sys.argv[1], *map(int, sys.argv[2:])

def text(s):
    return struct.pack("<Q", len(s)) + s.encode()

meta = [text("general.architecture") + struct.pack("<I", 8) + text("qwen3moe"),
        text("qwen3moe.block_count") + struct.pack("<II", 4, layers),
        text("qwen3moe.expert_count") + struct.pack("<II", 4, experts)]
names = ["token_embd", "output_norm"] + ([] if tied else ["output"])
for i in range(layers):
    names += [f"blk.{i}.{n}" for n in (
        "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps",
        "ffn_up_exps", "ffn_down_exps")]
infos, data = b"", b""
for name in names:
    dims = [256] if "norm" in name else [256, 1, experts] if "exps" in name else [256, 1]
    n = 256 * (experts if "exps" in name else 1)
    infos += text(name + ".weight") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data))
    data += struct.pack(f"<{n}f", *[(k % 17 - 8) / 8 for k in range(n)])
head = struct.pack("<IIqq", 0x46554747, 3, len(names), len(meta)) + b"".join(meta) + infos
open(out, "wb").write(head + bytes(-len(head) % 32) + data)
PYTHON
}

# mix TYPE LAYERS EXPERTS TIED: what quantize chose against the rules, written once more.
mix() {
    skeleton "$2" "$3" "$4" &&
        "$gqmm" quantize "$tmp/skeleton.gguf" "$tmp/mix.gguf" --force --type "$1" >/dev/null &&
        "$gqmm" inspect "$tmp/mix.gguf" --json --tensors >"$tmp/out" &&
        python3 - "$tmp/out" "$@" <<'PYTHON'
import json, sys
kind, n, experts, tied = sys.argv[2], *map(int, sys.argv[3:])

def more(i):
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2

def want(name):
    base = {"q4_k_m": "q4_k", "q4_k_s": "q4_k", "q5_k_m": "q5_k", "q5_k_s": "q5_k",
            "mxfp4_moe": "q8_0"}[kind]
    i = int(name.split(".")[1]) if name.startswith("blk.") else 0
    if "norm" in name or "ffn_gate_inp" in name:
        return "f32"
    if kind == "mxfp4_moe":
        return "mxfp4" if "exps" in name else base
    if name == "output.weight" or (tied and "token_embd" in name):
        return "q6_k"
    if experts == 8 and ("attn_v" in name or "attn_k" in name):
        return "q8_0"
    if experts == 8 and "attn_output" in name:
        return "q5_k"
    if kind.endswith("_m") and ("attn_v" in name or "ffn_down" in name) and more(i):
        return "q6_k"
    if kind == "q4_k_s" and ("attn_v" in name and i < 4 or "ffn_down" in name and i < n // 8):
        return "q5_k"
    return base

for t in json.load(open(sys.argv[1]))["tensors"]:
    if t["format"] != want(t["name"]):
        sys.exit(f"{t['name']} is {t['format']}, wanted {want(t['name'])}")
PYTHON
}
if command -v python3 >/dev/null; then
    for type in q4_k_m q4_k_s q5_k_m q5_k_s mxfp4_moe; do
        expect "mix $type, 17 layers" mix $type 17 4 0
        expect "mix $type, 8 experts" mix $type 8 8 0
        expect "mix $type, tied embedding" mix $type 2 2 1
    done
fi
finish cli_quantize
