#!/bin/bash
# SPDX-License-Identifier: MIT
# peers.sh BUILD: puts the packages that gqmm is compared with into BUILD/venv and runs
# tests/peers/compare_*.py on fresh random data. Ends with "N passed, N failed, N skipped".
# A package that cannot be had is a skip with its reason, and so is what it was for.
set -eu
unset MAKEFLAGS MFLAGS MAKELEVEL

build=$(cd "$1" && pwd)
venv=$build/venv
log=$build/peers.log
passed=0 failed=0 skipped=0
: >"$log"

skip() {
    echo "skip $1: $2"
    skipped=$((skipped + 1))
}

pip_install() {
    "$venv/bin/pip" install -q --disable-pip-version-check --retries 2 --timeout 30 "$@" \
        >>"$log" 2>&1
}

# All at once when it works, else one by one to say which is missing.
install_packages() {
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    pip_install "$@" && return
    local package
    for package in "$@"; do
        pip_install "$package" || skip "$package" "pip could not install it (PyPI out of reach?)"
    done
}

# llama-cpp-python carries ggml's quantisers, but PyPI has only its source, which pip compiles for
# ten minutes or more: on request.
install_ggml() {
    if [ -z "${GGML:-}" ]; then
        skip llama-cpp-python "compiling it takes long; GGML=1 make check-peers does"
    else
        install_packages llama-cpp-python
    fi
}

# run SCRIPT: shows its failures and skips and adds its counts.
run() {
    local name out rc=0 counts
    name=$(basename "$1" .py)
    out=$build/$name.log
    local begin=$SECONDS
    GQMM_BUILD=$build GQMM_LIBRARY=$build/libgqmm.so \
        timeout -k 10 600 "$venv/bin/python" "$1" "$build/libgqmm.so" >"$out" 2>&1 </dev/null ||
        rc=$?
    [ -z "${V:-}" ] || cat "$out"
    grep -E '^(FAIL|skip|seed) ' "$out" || true
    counts=$(sed -n -E 's/^[A-Za-z0-9_.]+: ([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' \
        "$out" | tail -n 1)
    if [ -z "$counts" ] || { [ "$rc" -ne 0 ] && [ "$(echo "$counts" | cut -d' ' -f2)" = 0 ]; }; then
        tail -n 20 "$out" | sed 's/^/    | /'
        echo "FAIL $name: ended with status $rc"
        failed=$((failed + 1))
    fi
    [ -n "$counts" ] || counts="0 0 0"
    # shellcheck disable=SC2086  # three numbers
    set -- $counts
    echo "$name: $1 passed, $2 failed, $3 skipped in $((SECONDS - begin)) s"
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

install_packages numpy gguf 'mlx[cpu]' safetensors tokenizers
if ! "$venv/bin/python" -c 'import numpy' 2>/dev/null; then
    skip peers "numpy is not there, so nothing can be compared"
else
    "$venv/bin/python" -c 'import llama_cpp' 2>/dev/null || install_ggml
    for script in tests/peers/compare_*.py tests/peers/check_*.py; do
        [ ! -e "$script" ] || run "$script"
    done
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
