#!/bin/bash
# SPDX-License-Identifier: MIT
# fuzz.sh BUILD SECONDS: builds the libFuzzer programs with ASan and UBSan and runs each that long,
# from its corpus in tests/fuzz/corpus/NAME (fuzz_NAME.c). New inputs stay in BUILD; an input that breaks
# something is left in BUILD/found. Ends with "N passed, N failed, N skipped".
set -eu
unset MAKEFLAGS MFLAGS MAKELEVEL

build=$1
seconds=$2
TARGET=fuzzers tools/build.sh "$build" -DCMAKE_C_COMPILER=clang -DGQMM_FUZZ=ON -DGQMM_CUDA=OFF \
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O1 -g1"
mkdir -p "$build/found"

fuzz() { # NAME: leaves NAME.log and NAME.rc
    local name=$1 seeds=tests/fuzz/corpus/${1#fuzz_} rc=0
    mkdir -p "$build/corpus/$name"
    [ -d "$seeds" ] || seeds=
    # shellcheck disable=SC2086  # no seeds is no word
    "$build/fuzz/$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$build/found/$name-" "$build/corpus/$name" $seeds \
        >"$build/$name.log" 2>&1 </dev/null || rc=$?
    echo "$rc" >"$build/$name.rc"
}

report() { # NAME
    local rc log=$build/$1.log
    rc=$(cat "$build/$1.rc")
    if [ "$rc" -eq 0 ]; then
        echo "ok $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s"
    else
        grep -E 'ERROR|SUMMARY|runtime error|Test unit written' "$log" | head -n 8 | sed 's/^/    /'
        echo "FAIL $1: ended with status $rc; see $log"
        failed=$((failed + 1))
        return
    fi
    passed=$((passed + 1))
}

names=
for source in tests/fuzz/fuzz_*.c; do
    [ ! -e "$source" ] || names="$names $(basename "$source" .c)"
done
passed=0 failed=0 skipped=0
for name in $names; do # all at once: the limit is time, not work
    fuzz "$name" &
done
wait || true
for name in $names; do
    report "$name"
done
if [ -z "$names" ]; then
    echo "skip fuzz: tests/fuzz has no fuzz_*.c"
    skipped=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
