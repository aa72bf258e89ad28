#!/bin/bash
# SPDX-License-Identifier: MIT
# The command gqmm from outside: help, bad input with its sentence and exit code, every subcommand
# on the tiny model of tests/data and, when it is there, on the demo model. GQMM_BUILD: the build.
# tests/cli/ has more: quantize, signals and terminals.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/cli/lib.sh

# ------------------------------------------------------------------ help and usage

for c in run chat inspect quantize eval info bench synth; do
    shows "help $c" "usage: gqmm $c" "$gqmm" help "$c"
    cp "$tmp/out" "$tmp/help"
    missing=
    while read -r option; do
        grep -q "^\.It .*Fl Fl ${option#--}\b" "docs/man/gqmm-$c.1" || missing="$missing $option"
    done < <(grep -oE '^ {2}(-., | {4})--[a-z-]+' "$tmp/help" | grep -oE -- '--[a-z-]+')
    expect "gqmm-$c(1) has the options of help$missing" test -z "$missing"
    expect "help $c shows examples" grep -q "^  .*gqmm $c " "$tmp/help"
    run 0 "$gqmm" "$c" --help
    expect "$c --help is help $c" cmp -s "$tmp/out" "$tmp/help"
    expect "help $c fits 100 columns" test "$(wc -L <"$tmp/help")" -le 100
done
shows "help" "commands:" "$gqmm" help
shows "--help" "commands:" "$gqmm" --help
version=$(sed -n 's/^#define GQMM_VERSION_[A-Z]* *//p' include/gqmm.h | paste -sd.)
shows "--version" "gqmm $version" "$gqmm" --version
for page in docs/man/*.1; do
    if command -v man >/dev/null && command -v groff >/dev/null; then
        # Lines that cannot be filled to the margin are no fault of the page.
        warnings=$(LC_ALL=C.UTF-8 MANROFFSEQ='' man --warnings -l -E UTF-8 "$page" 2>&1 >/dev/null |
            grep -v 'adjust line\|break line' || true)
        expect "$page has no warnings" test -z "$warnings"
    else
        skipped "$page has no warnings" "man and groff are not installed"
    fi
done

run 2 "$gqmm"
expect "no command: exit 2 and the commands" grep -q '^commands:' "$tmp/err"
refuses "unknown command" 2 "did you mean 'inspect'?" "$gqmm" inspct
refuses "unknown command, nothing near" 2 "there is no command 'frobnicate'" "$gqmm" frobnicate
refuses "unknown help" 2 "did you mean 'quantize'?" "$gqmm" help quantise
refuses "unknown option" 2 "did you mean --temp?" "$gqmm" run "$tiny" --tmep 0
refuses "unknown letter" 2 "has no option '-z'" "$gqmm" run "$tiny" -z
refuses "missing value" 2 "--temp needs a value" "$gqmm" run "$tiny" --temp
refuses "flag with a value" 2 "--json takes no value" "$gqmm" run "$tiny" --json=1
for number in x 1x '' ' 1' +1 1.5 0 -3 99999999999999999999 0x10; do
    refuses "--threads '$number'" 2 "--threads takes a whole number from 1 to 1024" \
        "$gqmm" run "$tiny" -p a --threads "$number"
done
for number in x nan inf 1e999 -1 1,5 ''; do
    refuses "--temp '$number'" 2 "--temp takes a number from 0 to 100" \
        "$gqmm" run "$tiny" -p a --temp="$number"
done
refuses "bad choice" 2 "--precision takes exact|int8, not 'int4'" \
    "$gqmm" run "$tiny" --precision int4
refuses "unknown ISA" 2 "--isa 'sse9' is none of scalar" "$gqmm" run "$tiny" -p a --isa sse9
refuses "no model" 2 "run needs MODEL" "$gqmm" run
refuses "two models" 2 "does not expect 'b'" "$gqmm" run a b
refuses "-p and -f" 2 "not both" "$gqmm" run "$tiny" -p a -f b
refuses "--system without --chat" 2 "--system needs --chat" "$gqmm" run "$tiny" -p a --system b
refuses "--echo with --json" 2 "--echo goes with neither" "$gqmm" run "$tiny" -p a --echo --json
refuses "unknown device" 1 "abacus" "$gqmm" run "$tiny" -p a --device abacus
refuses "info takes no file" 2 "does not expect 'x'" "$gqmm" info x
refuses "info: two forms" 2 "exclude each other" "$gqmm" info --json --matrix
refuses "quantize without type" 2 "quantize needs --type, one of q4_k_m" \
    "$gqmm" quantize "$tiny" "$tmp/x.gguf"
refuses "quantize: unknown type" 2 "--type 'q9' is none of q4_k_m" \
    "$gqmm" quantize "$tiny" "$tmp/x.gguf" --type q9
refuses "quantize: a type that GGUF has not" 2 "is none of" \
    "$gqmm" quantize "$tiny" "$tmp/x.gguf" --type affine4_g64_bf16
cp "$tiny" "$tmp/--json"
(cd "$tmp" && "$gqmm" inspect -- --json) >"$tmp/out" 2>&1
expect "-- ends options" grep -q '^architecture  qwen3moe' "$tmp/out"

# ------------------------------------------------------------------ bad files

: >"$tmp/empty.gguf"
head -c 2000 "$tiny" >"$tmp/short.gguf"
head -c "$(($(wc -c <"$tiny") - 1))" "$tiny" >"$tmp/one-less.gguf"
head -c 10 "$tiny" >"$tmp/ten.gguf"
echo "this is no model, it only says so" >"$tmp/words.gguf"
# arguments COMMAND FILE: a command line that reads the model FILE, in args.
arguments() {
    case $1 in
    run) args=(run "$2" -p a) ;;
    eval) args=(eval "$2" README.md) ;;
    quantize) args=(quantize "$2" "$tmp/y.gguf" --type q8_0) ;;
    *) args=("$1" "$2") ;;
    esac
}
while read -r name words; do
    for c in run chat inspect eval quantize; do
        arguments $c "$tmp/$name"
        refuses "$c: $name" 1 "$words" "$gqmm" "${args[@]}"
    done
done <<'LIST'
missing.gguf No such file or directory
empty.gguf is empty
ten.gguf the file ends after 10 bytes
short.gguf bytes are left
one-less.gguf (byte
words.gguf words.gguf
. is a directory
LIST
expect "bad input leaves no output" test ! -e "$tmp/y.gguf"

# change KIND OUT: the tiny model with one thing wrong.
change() {
    python3 - "$tiny" "$1" "$2" <<'PYTHON'
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
kind = sys.argv[2]

def swap(old, new):
    global data
    assert len(old) == len(new) and old in data
    data = data.replace(old, new)

def tensor(name):
    """Where the entry of a tensor goes on after its name."""
    return data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)

if kind == "architecture":
    swap(b"qwen3moe", b"qwen9moe")
elif kind == "name":
    swap(b"gqmm tiny random model", b"gqmm \x1b[31m\x07 \xe2\x80\xae\xff model")
elif kind == "missing":
    swap(b"blk.1.ffn_up_exps.weight", b"blk.1.ffn_up_expz.weight")
elif kind == "norm":
    swap(b"output_norm.weight", b"output_norm.weighx")
elif kind == "shape":
    at = tensor("blk.0.attn_k.weight") + 4
    first, second = struct.unpack_from("<QQ", data, at)
    struct.pack_into("<QQ", data, at, second, first * 1)
    if first == second:
        struct.pack_into("<QQ", data, at, first * 2, second // 2)
elif kind in ("type", "no-type"):
    at = tensor("blk.0.attn_k.weight")
    dims = struct.unpack_from("<I", data, at)[0]
    struct.pack_into("<I", data, at + 4 + 8 * dims, 26 if kind == "type" else 999)
elif kind == "experts":
    key = b"qwen3moe.expert_used_count"
    struct.pack_into("<I", data, data.index(key) + len(key) + 4, 77)
elif kind == "tokenizer":
    swap(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0gpt9")
open(sys.argv[3], "wb").write(data)
PYTHON
}

if command -v python3 >/dev/null; then
    for kind in architecture name missing norm shape type no-type experts tokenizer; do
        change $kind "$tmp/$kind.gguf" || failed "make $kind.gguf" "python3 failed"
    done
    refuses "unknown architecture is named" 1 "qwen9moe" "$gqmm" run "$tmp/architecture.gguf" -p a
    expect "unknown architecture: the known are listed" grep -q 'qwen3moe' "$tmp/err"
    refuses "missing tensor is named" 1 "blk.1.ffn_up_exps.weight is missing" \
        "$gqmm" run "$tmp/missing.gguf" -p a
    refuses "missing norm is named" 1 "output_norm.weight is missing" \
        "$gqmm" run "$tmp/norm.gguf" -p a
    refuses "wrong shape: the tensor is named" 1 "blk.0.attn_k.weight" \
        "$gqmm" run "$tmp/shape.gguf" -p a
    refuses "tensor type that gqmm does not compute with" 1 "blk.0.attn_k.weight" \
        "$gqmm" run "$tmp/type.gguf" -p a
    refuses "tensor type that does not exist" 1 "ggml type 999" \
        "$gqmm" run "$tmp/no-type.gguf" -p a
    expect "and its byte is said" grep -q '(byte [0-9]*)' "$tmp/err"
    refuses "quantize: a type that cannot be read" 1 "blk.0.attn_k.weight" \
        "$gqmm" quantize "$tmp/type.gguf" "$tmp/y.gguf" --type q8_0
    refuses "more experts used than there are" 1 "expert_used_count" \
        "$gqmm" run "$tmp/experts.gguf" -p a
    refuses "unknown tokenizer" 1 "gpt9" "$gqmm" run "$tmp/tokenizer.gguf" -p a
    shows "texts of a file are escaped" 'gqmm \x1b[31m\x07 \u202e\xff model' \
        "$gqmm" inspect "$tmp/name.gguf"
    run 0 "$gqmm" run "$tmp/name.gguf" -p a -n 1
    expect "in statistics too" sh -c "! LC_ALL=C grep -q \"\$(printf '\\033')\" '$tmp/err'"
    json "and JSON stays JSON" '"model" in d["name"] and "\ufffd" in d["name"]' \
        "$gqmm" inspect "$tmp/name.gguf" --json
else
    skipped "changed files" "python3 is not installed"
fi

# ------------------------------------------------------------------ prompts

refuses "empty prompt" 1 "the prompt is empty" "$gqmm" run "$tiny" -p ""
refuses "empty standard input" 1 "the prompt is empty" "$gqmm" run "$tiny"
refuses "prompt file missing" 1 "cannot open $tmp/none: No such file" \
    "$gqmm" run "$tiny" -f "$tmp/none"
refuses "prompt longer than --ctx" 1 "tokens, the context holds 4" \
    "$gqmm" run "$tiny" -p "One day Nora went to the river." --ctx 4
expect "both numbers are said" grep -qE 'the prompt has [0-9]+ tokens' "$tmp/err"
head -c 5000 README.md | tr '\0' ' ' >"$tmp/long.txt"
refuses "prompt longer than the model's context" 1 "tokens, the context holds 512" \
    "$gqmm" run "$tiny" -f "$tmp/long.txt"
refuses "--ctx beyond the model" 1 "this model knows up to 512" \
    "$gqmm" run "$tiny" -p a --ctx 513
printf 'One \377\300 day' >"$tmp/invalid.txt"
run 0 "$gqmm" run "$tiny" -f "$tmp/invalid.txt" -n 4 --temp 0
expect "invalid UTF-8 works" test "$rc" = 0
expect "invalid UTF-8: one warning with its byte" test \
    "$(grep -c 'warning: the prompt is not valid UTF-8 at byte 4' "$tmp/err")" = 1
run 0 "$gqmm" run "$tiny" -p "One day" -n 0
expect "-n 0 writes nothing" sh -c "[ $rc = 0 ] && [ ! -s '$tmp/out' ]"
expect "-n 0 has statistics" grep -q '^generated *0 tokens' "$tmp/err"
run 0 "$gqmm" run "$tiny" -p "One day" -n -1 --ctx 20 --temp 0
expect "a full context is said" grep -q 'the context of 20 tokens is full' "$tmp/err"
for words in '^prompt ' '^generated ' '^memory .*peak' '^model .*weights in' \
    '^kernels .*[a-z0-9]* (f32), int8 activations, [0-9]* thread'; do
    expect "statistics: $words" grep -q "$words" "$tmp/err"
done

# ------------------------------------------------------------------ run

text_of "$tiny" -p "One day" -n 40 --temp 0 --threads 1 >"$tmp/t1"
expect "run writes text" test -s "$tmp/t1"
for n in 2 3; do
    text_of "$tiny" -p "One day" -n 40 --temp 0 --threads $n >"$tmp/t2"
    expect "--temp 0: same text with $n threads" cmp -s "$tmp/t1" "$tmp/t2"
done
text_of "$tiny" --prompt="One day" --tokens=40 --temp=0 -t1 >"$tmp/t2"
expect "long options with =" cmp -s "$tmp/t1" "$tmp/t2"
echo "One day" | "$gqmm" run "$tiny" -n 40 --temp 0 >"$tmp/t2" 2>/dev/null
expect "prompt from a pipe" cmp -s "$tmp/t1" "$tmp/t2"
echo "One day" | "$gqmm" run "$tiny" -p - -n40 --temp 0 >"$tmp/t2" 2>/dev/null
expect "prompt from -p -" cmp -s "$tmp/t1" "$tmp/t2"
printf 'One day\r\n' >"$tmp/prompt.txt"
text_of "$tiny" -f "$tmp/prompt.txt" -n 40 --temp 0 >"$tmp/t2"
expect "prompt from a file" cmp -s "$tmp/t1" "$tmp/t2"
text_of "$tiny" -p "One day" -n 40 --temp 0 --batch 1 >"$tmp/t2"
expect "same text with --batch 1" cmp -s "$tmp/t1" "$tmp/t2"
text_of "$tiny" -p "One day" -n 40 --temp 0 --echo >"$tmp/t2"
expect "--echo" sh -c "printf 'One day' | cat - '$tmp/t1' | cmp -s - '$tmp/t2'"
text_of "$tiny" -p "One day" -n 40 --seed 7 --temp 1.5 >"$tmp/t1"
text_of "$tiny" -p "One day" -n 40 --seed 7 --temp 1.5 >"$tmp/t2"
expect "same seed, same text" cmp -s "$tmp/t1" "$tmp/t2"
text_of "$tiny" -p "One day" -n 40 --seed 8 --temp 1.5 >"$tmp/t2"
expect "another seed, another text" sh -c "! cmp -s '$tmp/t1' '$tmp/t2'"
expect "whole characters only" iconv -f UTF-8 -t UTF-8 "$tmp/t1"
run 0 "$gqmm" run "$tiny" -p "One day" -n 4 --temp 0 --weights repacked
expect "--weights repacked tells its memory" grep -q 'of it repacked weights' "$tmp/err"
run 0 "$gqmm" run "$tiny" -p "One day" -n 4 --temp 0 --precision exact --isa scalar
expect "--precision exact" grep -q 'exact activations' "$tmp/err"
run 0 "$gqmm" run "$tiny" --chat --system "Be kind." -p "Hello" -n 4 --temp 0
expect "--chat --system" test "$rc" = 0
run 1 sh -c "exec '$gqmm' run '$tiny' -p a -n 4 >/dev/full"
if [ -c /dev/full ]; then
    expect "standard output full" grep -q 'cannot write standard output: No space' "$tmp/err"
fi

# ------------------------------------------------------------------ chat, inspect, info, eval

printf 'hello\n\nthere\n' | "$gqmm" chat "$tiny" -n 8 --temp 0 >"$tmp/out" 2>"$tmp/err"
rc=$?
expect "chat: two turns from a pipe" sh -c "[ $rc = 0 ] && grep -q '^answers ' '$tmp/err'"
printf 'a\nb\nc\nd\n' | "$gqmm" chat "$tiny" --ctx 64 -n 20 --temp 0 >"$tmp/out" 2>"$tmp/err"
rc=$?
expect "chat: a full context forgets" grep -q 'tokens is full: the oldest turn' "$tmp/err"
expect "chat: and goes on" test "$rc" = 0
{
    head -c 300 "$tmp/long.txt" | tr '\n' ' '
    printf '\nhello\n'
} | "$gqmm" chat "$tiny" --ctx 48 -n 4 >"$tmp/out" 2>"$tmp/err"
rc=$?
expect "chat: a message that cannot fit is left out" \
    sh -c "[ $rc = 0 ] && grep -q 'it is left out' '$tmp/err' && grep -q '^answers ' '$tmp/err'"
run 0 "$gqmm" chat "$tiny"
expect "chat: no input, no fault" test "$rc" = 0

shows "inspect: architecture" "architecture  qwen3moe" "$gqmm" inspect "$tiny"
shows "inspect: experts" "5, 2 used per token" "$gqmm" inspect "$tiny"
shows "inspect: groups" "experts down" "$gqmm" inspect "$tiny"
shows "inspect: tensors" "blk.1.ffn_down_exps.weight" "$gqmm" inspect "$tiny" --tensors
shows "info: matrix" "| q4_k " "$gqmm" info
shows "info: formats" "affine4_g64_bf16" "$gqmm" info --formats
run 0 "$gqmm" info --matrix
expect "info --matrix is a table alone" sh -c "! grep -qv '^|' '$tmp/out'"
printf 'One day Nora found a bell.<|endoftext|>It rained.<|endoftext|>x' >"$tmp/text.txt"
shows "eval" "nats per token" "$gqmm" eval "$tiny" "$tmp/text.txt"
expect "eval tells tokens and documents" grep -qE '^tokens +[0-9]+, [0-9]+ of them .* 2 documents' \
    "$tmp/out"
refuses "eval: text missing" 1 "cannot open $tmp/none" "$gqmm" eval "$tiny" "$tmp/none"
refuses "eval: empty text" 1 "has 0 tokens" "$gqmm" eval "$tiny" "$tmp/empty.gguf"
refuses "eval: context of one" 2 "predicts nothing" "$gqmm" eval "$tiny" "$tmp/text.txt" --ctx 1

if command -v python3 >/dev/null; then
    json "run --json" 'd["generated_tokens"] == 5 and d["prompt_tokens"] > 0 and d["kernels"]' \
        "$gqmm" run "$tiny" -p "One day" -n 5 --temp 0 --json
    json "run --json -n 0" 'd["text"] == "" and d["generated_tokens_per_second"] is None' \
        "$gqmm" run "$tiny" -p "One day" -n 0 --json
    text_of "$tiny" -p "One day" -n 40 --temp 0 >"$tmp/t1"
    json "run --json has the text of run" \
        "d['text'].rstrip('\n') == open('$tmp/t1', newline='').read().rstrip('\n')" \
        "$gqmm" run "$tiny" -p "One day" -n 40 --temp 0 --json
    json "inspect --json" 'd["total"]["tensors"] == 27 and d["groups"]["router"]["tensors"] == 2' \
        "$gqmm" inspect "$tiny" --json
    json "inspect --json --tensors" 'len(d["tensors"]) == 27' \
        "$gqmm" inspect "$tiny" --json --tensors
    json "info --json" 'd["formats"] and d["isas"][0]["name"] == "scalar" and d["threads"] >= 1' \
        "$gqmm" info --json
    json "eval --json" 'd["loss"] > 0 and d["documents"] == 2' \
        "$gqmm" eval "$tiny" "$tmp/text.txt" --json
    # Of three documents the last has one token: 2 + 1 tokens are not predicted.
    json "eval: windows predict each token once" 'd["predicted_tokens"] == d["tokens"] - 3' \
        "$gqmm" eval "$tiny" "$tmp/text.txt" --json --ctx 4
else
    skipped "JSON" "python3 is not installed"
fi

# ------------------------------------------------------------------ pipes and memory

for c in "help run" "inspect $tiny" "quantize $tiny $tmp/one.gguf --type q8_0 --force" "info" \
    "run $tiny -p a -n 0" "eval $tiny $tmp/text.txt"; do
    # shellcheck disable=SC2086
    TERM=xterm run 0 "$gqmm" $c
    expect "no escape codes in pipes: ${c%% *}" \
        sh -c "! LC_ALL=C cat '$tmp/out' '$tmp/err' | grep -q \"\$(printf '\\033')\""
done

# Little memory: a sentence and exit 1, never a crash. 127 is the loader's own refusal.
if ldd "$gqmm" 2>/dev/null | grep -q 'lib[atu].*san' || nm -D "$gqmm" 2>/dev/null | grep -q __asan; then
    skipped "little memory" "sanitizers need all addresses"
else
    bad=
    # On top of the program itself: the system ends one that it cannot even map.
    program=$(($(stat -L -c %s "$gqmm") / 1024))
    for kb in 6000 8000 10000 12000 16000 20000 24000 32000 48000; do
        (
            ulimit -v $((program + kb))
            exec "$gqmm" run "$tiny" -p "One day" -n 4 --threads 2
        ) >"$tmp/out" 2>"$tmp/err" </dev/null
        rc=$?
        case $rc in
        0 | 127) ;;
        1) grep -q '^gqmm: ' "$tmp/err" || bad="$bad $kb(no sentence)" ;;
        *) bad="$bad $kb($rc)" ;;
        esac
    done
    expect "little memory ends in a sentence$bad" test -z "$bad"
fi

# ------------------------------------------------------------------ the demo model

demo=models/stories-q4_k_m.gguf
if [ -r "$demo" ]; then
    shows "demo: inspect" "architecture  qwen3moe" "$gqmm" inspect "$demo"
    for n in 1 2 3; do
        text_of "$demo" --chat -p "Tell me a story about Nora and a lantern." -n 24 --temp 0 \
            --threads $n >"$tmp/demo$n"
    done
    expect "demo: the story is about Nora" grep -q Nora "$tmp/demo1"
    expect "demo: same story with 2 threads" cmp -s "$tmp/demo1" "$tmp/demo2"
    expect "demo: same story with 3 threads" cmp -s "$tmp/demo1" "$tmp/demo3"
    text_of "$demo" --chat -p "Tell me a story about Nora and a lantern." -n 24 --temp 0 \
        --weights repacked >"$tmp/demo4"
    expect "demo: repacked weights tell a story" grep -q Nora "$tmp/demo4"
    # A conversation computes only what is new; all at once it must say the same.
    first="Tell me a short story about Finn and a red pencil."
    second="Who found the pencil?"
    printf '%s\n%s\n' "$first" "$second" | "$gqmm" chat "$demo" --temp 0 >"$tmp/chat" 2>/dev/null
    text_of "$demo" --chat -p "$first" -n -1 --temp 0 >"$tmp/answers"
    printf '<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n%s<|im_end|>\n' \
        "$first" "$(cat "$tmp/answers")" >"$tmp/prompt.txt"
    printf '<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n\n' "$second" >>"$tmp/prompt.txt"
    text_of "$demo" -f "$tmp/prompt.txt" -n -1 --temp 0 >>"$tmp/answers"
    expect "demo: a conversation is one text" cmp "$tmp/chat" "$tmp/answers"
    head -c 1500 models/heldout.txt >"$tmp/text.txt"
    if command -v python3 >/dev/null; then
        json "demo: eval" '0 < d["loss"] < 2.5' "$gqmm" eval "$demo" "$tmp/text.txt" --json
    fi
    expect "demo: quantize again" "$gqmm" quantize "$demo" "$tmp/demo.gguf" --type q4_0
    shows "demo: and run" "" "$gqmm" run "$tmp/demo.gguf" -p "One day" -n 4
else
    skipped "demo model" "$demo is not here"
fi
finish check_cli
