#!/bin/sh
# SPDX-License-Identifier: MIT
# build.sh DIR [CMAKE OPTION...]: configures and builds into DIR; TARGET= names targets.
# Quiet on success; the log is DIR/build.log, shown from its first error on failure.
set -eu
unset MAKEFLAGS MFLAGS MAKELEVEL

dir=$1
shift
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
mkdir -p "$dir"
log=$dir/build.log

fail() {
    echo "build.sh: $dir: $1; the log is $log" >&2
    grep -n -A 12 -E 'error|Error|undefined reference' "$log" | head -n 60 >&2 || tail -n 30 "$log" >&2
    exit 1
}

cmake -S . -B "$dir" "$@" >"$log" 2>&1 || fail "cmake could not configure"
# shellcheck disable=SC2086  # TARGET is a list of words
cmake --build "$dir" -j "$jobs" ${TARGET:+--target $TARGET} >>"$log" 2>&1 ||
    fail "the build failed"
echo "built $dir"
