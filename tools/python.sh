#!/bin/sh
# SPDX-License-Identifier: MIT
# python.sh BUILD: a virtual environment BUILD/python with what the tests of the Python package use:
# pytest, hypothesis, ml_dtypes, gguf, safetensors, mlx[cpu], torch, transformers. Says what could
# not be had and goes on: those tests are skipped then. torch brings gigabytes of CUDA along, so it
# is installed in CI or with TORCH=1 only. Last, the library of the wheel is compiled into
# BUILD/wheel: tests/check_python.sh reports on it.
# python.sh BUILD DIR: the wheel into DIR, with that environment.
set -eu

mkdir -p "$1"
build=$(cd "$1" && pwd)
venv=$build/python
log=$build/python.log

# Without CUDA, whose kernels take minutes to compile; tests/cuda and the tests of this package on
# CUDA tensors are for a machine that has a GPU. Little optimised: half of the time. The build
# directory is kept, and pip's own environment would make it anew each time.
wheel() { # DIR
    "$venv/bin/pip" wheel . --no-deps --no-build-isolation -q --disable-pip-version-check -w "$1" \
        -C build-dir="$build/wheel" -C cmake.define.GQMM_CUDA=OFF -C cmake.build-type=Debug \
        -C cmake.define.CMAKE_C_FLAGS_DEBUG=-O1
}
if [ $# -gt 1 ]; then
    wheel "$2"
    exit
fi
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
backend=$(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml)
get scikit_build_core "$backend" || missing "$backend"
get numpy numpy || missing numpy
get pytest pytest hypothesis ml_dtypes || missing "pytest, hypothesis, ml_dtypes"
get safetensors safetensors || missing safetensors
get gguf gguf || missing gguf
get mlx.core 'mlx[cpu]' || missing mlx
has torch || { [ -n "${CI:-}${TORCH:-}" ] && get torch torch; } ||
    missing "torch (TORCH=1 installs it)"
! has torch || get transformers transformers || missing transformers
wheel "$build/wheel-made" >>"$log" 2>&1 || missing wheel
