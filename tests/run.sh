#!/bin/bash
# SPDX-License-Identifier: MIT
# run.sh [LABEL=BUILD:MODE...]: runs the tests of each build and ends with the one line
#     N passed, N failed, N skipped
# MODE is full (programs and scripts), quick (programs with --quick, scripts that run a build's
# command), threads (the programs that use threads, quick), cuda (check_cuda and what of tests/cuda needs no GPU),
# skip:REASON or broken:REASON.
# Default: all=build:full. Environment: ONLY=PATTERN (names), V=1 (passing lines too), JOBS,
# GQMM_TEST_TIMEOUT (seconds for one program, 400).
#
# A test is a program or script that prints "ok NAME", "FAIL NAME: why" or "skip NAME: reason"
# lines and closes with "check_X: N passed, N failed, N skipped". A script with a line
# "# run.sh: once" looks at the tree rather than at a build and runs with the full build only;
# one with "# run.sh: no sanitizer" stays away from builds with a sanitizer.
set -eu

cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
limit=${GQMM_TEST_TIMEOUT:-400}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1:detect_leaks=1:abort_on_error=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}
thread_programs='check_op check_moe check_threads'

wanted() {
    # shellcheck disable=SC2053  # ONLY is a pattern
    [[ $1 == ${ONLY:-*} ]]
}

# run_one ID LABEL BUILD NAME COMMAND...: one program; leaves ID.log, ID.rc and ID.head in $out.
run_one() {
    local id=$1 label=$2 build=$3 name=$4 begin rc=0
    shift 4
    begin=$(date +%s%N)
    GQMM_BUILD=$build timeout -k 10 "$limit" "$@" >"$out/$id.log" 2>&1 </dev/null || rc=$?
    echo "$rc" >"$out/$id.rc"
    echo "$label $name $((($(date +%s%N) - begin) / 100000000))" >"$out/$id.part"
    mv "$out/$id.part" "$out/$id.head"
}

# Reports what has ended, in the order of starting.
next=1
flush() {
    local id
    id=$(printf '%04d' $next)
    while [ -e "$out/$id.head" ]; do
        report "$id"
        next=$((next + 1))
        id=$(printf '%04d' $next)
    done
}

n=0
queue() {
    wanted "$3" || return 0
    n=$((n + 1))
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        wait -n || true
        flush
    done
    run_one "$(printf '%04d' $n)" "$@" &
}

# note LABEL NAME LINE: a result that no program printed.
note() {
    n=$((n + 1))
    local id
    id=$(printf '%04d' $n)
    echo "$3" >"$out/$id.log"
    echo 0 >"$out/$id.rc"
    echo "$1 $2 0" >"$out/$id.head"
}

# The quick flag, for those that know it: by name or as h.quick.
flag_for() {
    if [ -n "$flag" ] && grep -q -e "$flag" -e 'h\.quick' "$1"; then
        echo "$flag"
    fi
}

programs() { # LABEL BUILD NAMES: all without NAMES; with $flag and $wrap
    local label=$1 build=$2 name source
    for source in tests/check_*.c; do
        [ -e "$source" ] || continue
        name=$(basename "$source" .c)
        [ -z "${3:-}" ] || [[ " $3 " == *" $name "* ]] || continue
        if [ -x "$build/tests/$name" ]; then
            # shellcheck disable=SC2046,SC2086  # flag and wrap are lists of words
            queue "$label" "$build" "$name" $wrap "$build/tests/$name" $(flag_for "$source")
        else
            note "$label" "$name" "FAIL $name: $build/tests/$name was not built"
        fi
    done
}

scripts() { # LABEL BUILD MODE
    local label=$1 build=$2 mode=$3 script name run
    for script in tests/check_*.sh tests/cli/*.sh tests/check_*.py tests/cli/*.py; do
        [ -e "$script" ] || continue
        name=$(basename "$script")
        case $name in
        check_peers* | lib.sh) continue ;;
        esac
        if [ "$mode" != full ] && grep -q '^# run.sh: once' "$script"; then
            continue
        fi
        case $label in
        *san) grep -q '^# run.sh: no sanitizer' "$script" && continue ;;
        esac
        run=bash
        [ "${script##*.}" = sh ] || run=python3
        if command -v "$run" >/dev/null; then
            # shellcheck disable=SC2046  # a word or none
            queue "$label" "$build" "$name" "$run" "$script" $(flag_for "$script")
        else
            note "$label" "$name" "skip $name: $run is not installed"
        fi
    done
}

suite() { # LABEL BUILD MODE REASON
    flag=--quick
    wrap=
    case $3 in
    full)
        flag=
        programs "$1" "$2" ""
        scripts "$1" "$2" full
        ;;
    quick)
        programs "$1" "$2" ""
        scripts "$1" "$2" quick
        ;;
    threads)
        wrap=${RUN_STILL:-}
        programs "$1" "$2" "$thread_programs"
        ;;
    cuda)
        programs "$1" "$2" check_cuda
        queue "$1" "$2" check_cuda_decode "$2/tests/test_decode"
        queue "$1" "$2" check_cuda_stage "$2/tests/test_stage"
        queue "$1" "$2" check_driver.sh sh tests/cuda/check_driver.sh
        ;;
    skip) note "$1" build "skip build $1: $4" ;;
    broken) note "$1" build "FAIL build $1: $4" ;;
    *)
        echo "run.sh: unknown mode $3" >&2
        exit 2
        ;;
    esac
}

# How a program ended, where that is a failure of its own; nothing otherwise.
verdict() { # RC CLOSED FAILED
    if [ "$1" -eq 124 ]; then
        echo "ran past $limit s"
    elif [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then
        echo "killed by SIG$(kill -l $(($1 - 128)))"
    elif [ -z "$2" ]; then
        echo "ended with status $1 and without its closing line"
    elif [ "$1" -ne 0 ] && [ "$3" -eq 0 ]; then
        echo "ended with status $1 though nothing is said to have failed"
    fi
}

closing='^[A-Za-z0-9_.]+: ([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$'
passed=0 failed=0 skipped=0

report() { # ID
    local label name tenths rc closed p f s why log=$out/$1.log
    read -r label name tenths <"$out/$1.head"
    rc=$(cat "$out/$1.rc")
    closed=$(grep -E "$closing" "$log" | tail -n 1 || true)
    if [[ $closed =~ $closing ]]; then
        p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[3]}
    else
        p=$(grep -c '^ok ' "$log" || true)
        f=$(grep -c '^FAIL ' "$log" || true)
        s=$(grep -c '^skip ' "$log" || true)
        [ "$((p + f + s))" -eq 0 ] || [ "$name" != build ] || closed=yes
        [ "$rc" -ne 0 ] || ! grep -q "^\(FAIL\|skip\) $name:" "$log" || closed=yes
    fi
    why=$(verdict "$rc" "$closed" "$f")
    [ -z "$why" ] || f=$((f + 1))
    printf '%-9s %-22s %6d passed %4d failed %4d skipped %5d.%d s\n' "$label" "$name" \
        "$p" "$f" "$s" $((tenths / 10)) $((tenths % 10))
    if [ -n "${V:-}" ]; then
        sed 's/^/    /' "$log"
    else
        grep -E '^FAIL ' "$log" | sed 's/^/    /' || true
        if [ -n "$why" ]; then
            tail -n 40 "$log" | grep -v '^ok ' | sed 's/^/    | /' || true
        fi
    fi
    [ -z "$why" ] || echo "    FAIL $name: $why"
    grep -E '^skip ' "$log" | sed "s/^/$label $name: /" >>"$out/skips" || true
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

[ $# -gt 0 ] || set -- "all=${GQMM_BUILD:-build}:full"
for spec in "$@"; do
    label=${spec%%=*}
    rest=${spec#*=}
    build=${rest%%:*}
    rest=${rest#*:}
    suite "$label" "$build" "${rest%%:*}" "${rest#*:}"
done
wait || true
flush
if [ -s "$out/skips" ]; then
    echo "Skipped:"
    # The same skip in several builds is said once, with the builds it concerns.
    awk '{ label = $1; $1 = ""; if (!($0 in seen)) order[++k] = $0; seen[$0] = seen[$0] " " label }
        END { for (i = 1; i <= k; i++) print "   " order[i] "  [" substr(seen[order[i]], 2) "]" }' \
        "$out/skips"
fi
if [ "$((passed + failed + skipped))" -eq 0 ]; then
    echo "FAIL run.sh: no test ran"
    failed=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
