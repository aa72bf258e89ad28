# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What the tests of the command share; sourced from the repository root.
. tests/lib.sh
gqmm=$(realpath -m "${GQMM_BUILD:-build}/gqmm")
tiny=tests/data/tiny-qwen3moe-f32.gguf
tmp=$(mktemp -d)
mounted=
cleanup() {
    [ -z "$mounted" ] || umount "$mounted"
    rm -rf "$tmp"
}
trap cleanup EXIT
unset NO_COLOR

if [ ! -x "$gqmm" ] || [ ! -r "$tiny" ]; then
    failed "the command" "$gqmm or $tiny is missing"
    finish "$(basename "$0" .sh)"
    exit 1
fi

# run CODE COMMAND...: leaves $tmp/out and $tmp/err; true when the exit code is CODE.
run() {
    local want=$1
    shift
    "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
    [ "$rc" -eq "$want" ]
}

said() {
    echo "exit $rc, $(head -c 300 "$tmp/err" | tr '\n' ' ')"
}

# refuses NAME CODE WORDS COMMAND...: ends with CODE, one line "gqmm: ...WORDS..." on standard
# error, and nothing on standard output.
refuses() {
    local name=$1 code=$2 words=$3
    shift 3
    if run "$code" "$@" && grep -q '^gqmm: ' "$tmp/err" && grep -qF -- "$words" "$tmp/err" &&
        [ ! -s "$tmp/out" ]; then
        ok "$name"
    else
        failed "$name" "$(said), wanted exit $code and \"$words\""
    fi
}

# shows NAME WORDS COMMAND...: succeeds with WORDS on standard output.
shows() {
    local name=$1 words=$2
    shift 2
    if run 0 "$@" && grep -qF -- "$words" "$tmp/out"; then
        ok "$name"
    else
        failed "$name" "$(said), wanted \"$words\" on standard output"
    fi
}

# json NAME EXPRESSION COMMAND...: succeeds with one JSON object d for which EXPRESSION holds.
json() {
    local name=$1 expression=$2
    shift 2
    if ! run 0 "$@"; then
        failed "$name" "$(said)"
    elif python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' "$tmp/out" "$expression" 2>"$tmp/why"; then
        ok "$name"
    else
        failed "$name" "not so: $expression $(tail -n 1 "$tmp/why")"
    fi
}

text_of() { # the text that a run writes, no statistics
    "$gqmm" run "$@" 2>/dev/null </dev/null
}
