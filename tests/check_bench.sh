#!/bin/bash
# SPDX-License-Identifier: MIT
# The commands bench and synth on tiny shapes: rows with all their fields, positive floors, files
# that load, and bad arguments with their sentence. Nothing here judges speed. GQMM_BUILD: the
# build. --quick: of the operations two.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/cli/lib.sh

if ! "$gqmm" help bench >/dev/null 2>&1; then
    skipped "bench and synth" "this build has no such commands"
    finish check_bench
    exit
fi
shape=8,64,128,2
quick=(--shape "$shape" --seconds 0.002 --threads 2)
operations="moe qmm gather embed dequantize quantize"
[ "${1:-}" != --quick ] || operations="gather quantize"

# rows NAME EXPRESSION COMMAND...: succeeds with JSON objects, one a line, all of which, as d, make
# EXPRESSION true. Without Python only the exit code is looked at.
rows() {
    local name=$1 expression=$2
    shift 2
    if ! run 0 "$@"; then
        failed "$name" "$(said)"
    elif ! command -v python3 >/dev/null || python3 -c 'import json, math, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
def good(d):
    return eval("(" + sys.argv[2] + ")", {"math": math, "d": d})
sys.exit(0 if rows and all(map(good, rows)) else 1)' "$tmp/out" "$expression" 2>"$tmp/why"; then
        ok "$name"
    else
        failed "$name" "not so: $expression $(tail -n 1 "$tmp/why") $(head -c 300 "$tmp/out")"
    fi
}

# ------------------------------------------------------------------ help and man pages

for c in bench synth; do
    shows "help $c" "usage: gqmm $c" "$gqmm" help "$c"
    cp "$tmp/out" "$tmp/help"
    missing=
    while read -r option; do
        grep -q "^\.It .*Fl Fl ${option#--}\b" "docs/man/gqmm-$c.1" || missing="$missing $option"
    done < <(grep -oE '^ {2}(-., | {4})--[a-z-]+' "$tmp/help" | grep -oE -- '--[a-z-]+')
    expect "gqmm-$c(1) has the options of help$missing" test -z "$missing"
    expect "help $c shows examples" grep -q "^  .*gqmm $c " "$tmp/help"
    expect "help $c fits 100 columns" test "$(wc -L <"$tmp/help")" -le 100
done

# ------------------------------------------------------------------ operations

fields='{"op", "shape", "format", "device", "isa", "precision", "tokens", "threads", "us",
    "us_min", "spread", "floor_us", "share"} <= set(d)'
sound='math.isfinite(d["us"]) and 0 < d["us_min"] <= d["us"] and 0 < d["floor_us"] and
    0 < d["share"] and d["spread"] >= 0 and d["repeats"] >= 3 and
    all(min(d["ceilings"][k]) > 0 for k in
        ("dram_stream_gbs", "dram_pieces_gbs", "int8_gmacs", "fp32_gmacs"))'
for op in $operations; do
    rows "bench $op" "($fields) and ($sound) and d['op'] == '$op' and d['shape'] == '$shape'" \
        "$gqmm" bench "$op" "${quick[@]}" --format q8_0 --tokens 1,3 --json
    expect "bench $op: a row for each number of tokens" test "$(wc -l <"$tmp/out")" -eq 2
done
rows "bench moe: formats of every origin" "$sound" "$gqmm" bench moe "${quick[@]}" --tokens 2 \
    --format q4_0,mxfp4,affine4_g64_bf16,mlx_mxfp8,int4_g32,f16 --json
expect "bench moe: a row for each format" test "$(wc -l <"$tmp/out")" -eq 6
rows "bench moe: exact, skewed, one thread, huge pages" \
    "($sound) and d['precision'] == 'exact' and d['routing'] == 'skewed' and d['threads'] == 1" \
    "$gqmm" bench moe "${quick[@]}" --format q8_0 --tokens 4 -t 1 --precision exact \
    --routing skewed --pages huge --isa scalar --json
rows "bench moe: down in another format" \
    "d['format'] == 'q4_k' and d['format_down'] == 'q5_0'" \
    "$gqmm" bench moe --shape 4,64,256,2 --seconds 0.002 --tokens 1 --json
rows "bench moe: a model by name" "($sound) and d['experts'] == 12" \
    "$gqmm" bench moe --shape demo --seconds 0.002 --tokens 1 --json
shows "bench: the table" "measured ceilings" \
    "$gqmm" bench moe "${quick[@]}" --format q8_0 --tokens 1
expect "bench: its header" grep -q '^tokens .* floor us .* share' "$tmp/out"
expect "bench: shapes of one list" test "$(grep -c '^SHAPE(' bench/shapes.def)" -ge 9

refuses "bench without an operation" 2 "bench needs WHAT" "$gqmm" bench
refuses "unknown operation" 2 "not 'mow'" "$gqmm" bench mow
refuses "unknown shape" 2 "did you mean 'mixtral-8x7b'?" "$gqmm" bench moe --shape mixtral
for s in '' 1,2,3 1,2,3,4,5 0,64,64,1 4,64,64,8 a,b,c,d -1,64,64,1; do
    refuses "shape '$s'" 2 "is neither E,N,K,top" "$gqmm" bench moe --shape "$s"
done
for t in '' 0 '1,' ',1' x 1,-1 65537; do
    refuses "tokens '$t'" 2 "--tokens takes" "$gqmm" bench moe --shape "$shape" --tokens "$t"
done
refuses "unknown format" 2 "there is no format 'q9_z'" "$gqmm" bench moe --format q8_0,q9_z
refuses "rows that do not fit" 1 "no multiple of the block of q4_k" \
    "$gqmm" bench qmm "${quick[@]}" --format q4_k --tokens 1 --json
refuses "unknown ISA" 2 "--isa 'sse9' is none" "$gqmm" bench moe "${quick[@]}" --isa sse9
refuses "unknown device" 1 "unknown; gqmm_device_at() lists" \
    "$gqmm" bench moe "${quick[@]}" --format q8_0 --tokens 1 --device nowhere
if "$gqmm" info | grep -q 'cuda:0'; then
    for op in $operations; do
        rows "bench $op on a device" "d['device'] == 'cuda' and d['repeats'] >= 20 and
            0 < d['us_min'] <= d['us'] and 0 < d['floor_us']" \
            "$gqmm" bench "$op" "${quick[@]}" --format q8_0 --tokens 1,3 --device cuda --json
    done
else
    refuses "bench without a device" 1 "device cuda: " \
        "$gqmm" bench moe "${quick[@]}" --format q8_0 --tokens 1 --device cuda
    skipped "bench on a device" "no CUDA device"
fi
refuses "a file for an operation" 2 "only 'bench model' takes a file" "$gqmm" bench moe "$tiny"
refuses "no file for model" 2 "bench model needs a FILE" "$gqmm" bench model
refuses "a file that is not there" 1 "nowhere.gguf" "$gqmm" bench model "$tmp/nowhere.gguf"
refuses "nothing to measure" 2 "leave nothing" "$gqmm" bench model "$tiny" --prompt 0 --gen 0

# ------------------------------------------------------------------ model files

synth=("$gqmm" synth --shape "8,256,256,2" --layers 3 --vocab 300)
expect "synth" "${synth[@]}" "$tmp/a.gguf"
expect "synth: same seed, same file" "${synth[@]}" "$tmp/b.gguf" --threads 1
expect "synth: same bytes" cmp "$tmp/a.gguf" "$tmp/b.gguf"
expect "synth: another seed" "${synth[@]}" "$tmp/b.gguf" --seed 2 --force
expect "synth: other bytes" test "$(cmp -s "$tmp/a.gguf" "$tmp/b.gguf" || echo differs)" = differs
rows "synth: inspect" "d['architecture'] == 'qwen3moe'" \
    sh -c "\"$gqmm\" inspect \"$tmp/a.gguf\" --json | tr -d '\n'"
shows "synth: run" "" "$gqmm" run "$tmp/a.gguf" -p "a day" -n 4 --temp 0
for type in q8_0 mxfp4_moe f16; do
    expect "synth: $type" "${synth[@]}" "$tmp/$type.gguf" --type "$type"
    shows "synth: run $type" "" "$gqmm" run "$tmp/$type.gguf" -p "a day" -n 2 --temp 0
done
refuses "synth: the file exists" 1 "a.gguf" "${synth[@]}" "$tmp/a.gguf"
refuses "synth without a shape" 2 "synth needs --shape" "$gqmm" synth "$tmp/c.gguf"
refuses "synth: unknown type" 2 "--type 'q9' is none of q4_k_m" \
    "${synth[@]}" --type q9 "$tmp/c.gguf"
refuses "synth: few tokens" 2 "--vocab takes a whole number from 260" "${synth[@]}" --vocab 200 x
expect "synth: nothing is left of failures" test ! -e "$tmp/c.gguf"

rows "bench model" "d['tokens_per_second'] > 0 and d['op'] == 'model' and
    abs(sum(d['parts'].values()) - 1) < 1e-5 and min(d['parts'].values()) >= 0 and
    d['test'] in ('pp16', 'tg4') and d['threads'] == 2 and d['repeats'] == 2" \
    "$gqmm" bench model "$tmp/a.gguf" --prompt 16 --gen 4 --repeat 2 -t 2 --json
expect "bench model: both tests" test "$(wc -l <"$tmp/out")" -eq 2
shows "bench model: the table" "tg2" "$gqmm" bench model "$tmp/a.gguf" --prompt 0 --gen 2 --repeat 1
refuses "bench model: longer than the model knows" 1 "this model knows" \
    "$gqmm" bench model "$tmp/a.gguf" --prompt 50000 --gen 0
finish check_bench
