#!/bin/sh
# SPDX-License-Identifier: MIT
# python.sh BUILD: a virtual environment BUILD/python with what the tests of the Python package use:
# pytest, hypothesis, ml_dtypes, gguf, safetensors, mlx[cpu], torch, transformers. Says what could
# not be had and goes on: those tests are skipped then. torch brings gigabytes of CUDA along, so it
# is installed in CI or with TORCH=1 only. Last, the library of the wheel is compiled into
# BUILD/wheel: tests/check_python.sh reports on it.
set -eu

mkdir -p "$1"
build=$(cd "$1" && pwd)
venv=$build/python
log=$build/python.log
: >"$log"

has() {
    "$venv/bin/python" -c "import $1" >/dev/null 2>&1
}

# get MODULE PIP-ARGUMENT...
get() {
    module=$1
    shift
    has "$module" || "$venv/bin/pip" install -q --disable-pip-version-check --no-cache-dir \
        --retries 1 --timeout 30 "$@" >>"$log" 2>&1
}

missing() {
    echo "python.sh: no $1 for the tests of the Python package (see $log)"
}

if [ ! -x "$venv/bin/python" ] && ! python3 -m venv "$venv" >>"$log" 2>&1; then
    rm -rf "$venv"
    missing "virtual environment"
    exit 0
fi
get numpy numpy || missing numpy
get pytest pytest hypothesis ml_dtypes || missing "pytest, hypothesis, ml_dtypes"
get safetensors safetensors || missing safetensors
get gguf gguf || missing gguf
get mlx.core 'mlx[cpu]' || missing mlx
has torch || { [ -n "${CI:-}${TORCH:-}" ] && get torch torch; } ||
    missing "torch (TORCH=1 installs it)"
! has torch || get transformers transformers || missing transformers
# As tests/check_python.sh has it, which then compiles nothing again.
"$venv/bin/pip" wheel . --no-deps -q --disable-pip-version-check -w "$build/wheel-made" \
    -C build-dir="$build/wheel" -C cmake.define.GQMM_CUDA=OFF \
    -C cmake.define.CMAKE_C_FLAGS_RELEASE=-O1 >>"$log" 2>&1 || missing wheel
