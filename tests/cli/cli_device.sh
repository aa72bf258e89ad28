#!/bin/bash
# SPDX-License-Identifier: MIT
# The command with --device cuda: greedy text, chat, loss and the demo are those of the CPU with
# exact activations. Where there is no device it says so.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/cli/lib.sh
demo=models/stories-q4_k_m.gguf

if ! "$gqmm" info | grep -q 'cuda:0'; then
    refuses "run without a device" 1 "CUDA" "$gqmm" run "$tiny" -p a --device cuda
    refuses "chat without a device" 1 "CUDA" "$gqmm" chat "$tiny" --device cuda
    refuses "eval without a device" 1 "CUDA" "$gqmm" eval "$tiny" README.md --device cuda:0
    refuses "bench model without a device" 1 "CUDA" "$gqmm" bench model "$tiny" --device cuda
    skipped "run on a device" "no CUDA device"
    finish cli_device
    exit
fi

# same NAME FILE: what was written there equals $tmp/cpu.
same() {
    expect "$1" cmp "$2" "$tmp/cpu"
}

text_of "$tiny" -p a -n 20 --temp 0 --precision exact >"$tmp/cpu"
text_of "$tiny" -p a -n 20 --temp 0 --device cuda >"$tmp/cuda"
same "run" "$tmp/cuda"
refuses "repacked on a device" 1 "for the CPU alone" \
    "$gqmm" run "$tiny" -p a --device cuda --weights repacked
refuses "no such device" 1 "cuda:63" "$gqmm" run "$tiny" -p a --device cuda:63
shows "info names the device" "sm_" "$gqmm" info
shows "info says what int8 is there" "int8 for 6 to 32 columns" "$gqmm" info
json "info --json" "d['devices'][1]['precisions'] == ['exact'] and 'sm_' in d['devices'][1]['text']" \
    "$gqmm" info --json

if [ ! -r "$demo" ]; then
    skipped "the demo model on a device" "$demo is not there"
    finish cli_device
    exit
fi
while read -r prompt; do
    text_of "$demo" --chat -p "$prompt" -n 200 --temp 0 --precision exact >"$tmp/cpu"
    text_of "$demo" --chat -p "$prompt" -n 200 --temp 0 --device cuda >"$tmp/cuda"
    expect "there is text" test -s "$tmp/cpu"
    same "run: $prompt" "$tmp/cuda"
done <<'PROMPTS'
Tell me a story about a girl called Mira and a lantern.
Write a story about Nico and a spoon.
What is 17 + 25?
PROMPTS
json "run --json" "d['device'] == 'cuda:0' and d['precision'] == 'exact' and d['device_bytes'] > 1e7" \
    "$gqmm" run "$demo" -p "Once upon a time" -n 8 --temp 0 --device cuda --json

turns=$'Tell me a story about a fox.\nWhat did the fox find?\n'
printf '%s' "$turns" | "$gqmm" chat "$demo" --temp 0 --precision exact >"$tmp/cpu" 2>/dev/null
printf '%s' "$turns" | "$gqmm" chat "$demo" --temp 0 --device cuda >"$tmp/cuda" 2>/dev/null
expect "chat has answers" test -s "$tmp/cpu"
same "chat: two turns" "$tmp/cuda"

run 0 "$gqmm" eval "$demo" models/heldout.txt --precision exact --json
cp "$tmp/out" "$tmp/loss"
json "eval: the loss of the CPU" \
    "abs(d['loss'] - json.load(open('$tmp/loss'))['loss']) < 1e-4 and d['device'] == 'cuda:0'" \
    "$gqmm" eval "$demo" models/heldout.txt --device cuda --json
run 0 "$gqmm" bench model "$demo" --prompt 64 --gen 16 --repeat 2 --device cuda --json
expect "bench model: $(said)" grep -qE '"device": ?"cuda' "$tmp/out"
run 0 env BUILD="$(dirname "$gqmm")" DEVICE=cuda tools/demo.sh "$demo" "A story about Mira." 40
expect "the demo tells a story" grep -q Mira "$tmp/out"
expect "the demo says where" grep -q 'cuda:0' "$tmp/err"
finish cli_device
