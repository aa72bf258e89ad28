#!/bin/bash
# SPDX-License-Identifier: MIT
# check.sh BUILD: builds the tree in every way it must hold and hands the builds to tests/run.sh.
#   BUILD                gcc -O2      everything
#   BUILD/check/tsan     TSan         the programs that use threads
#   BUILD/check/gcc-O0   gcc -O0      quick
#   BUILD/check/clang-O2 clang -O2    quick
#   BUILD/check/asan     ASan, UBSan  quick
#   BUILD/check/cuda     nvcc         compiled for both paths; what of it runs without a GPU
set -eu
unset MAKEFLAGS MFLAGS MAKELEVEL

build=$1
builds=()

# What tests/check_python.sh needs is fetched while the compilers run.
tools/python.sh "$build" &
python=$!

# add LABEL DIR MODE COMPILER [CMAKE OPTION...]: builds and notes LABEL=DIR:MODE for run.sh.
add() {
    local label=$1 dir=$2 mode=$3 compiler=$4
    shift 4
    local begin=$SECONDS
    if TARGET=$target tools/build.sh "$dir" -DCMAKE_C_COMPILER="$compiler" -DGQMM_TESTS=ON \
        -DGQMM_WERROR=OFF \
        "$@" >/dev/null; then
        echo "built $label in $((SECONDS - begin)) s"
        builds+=("$label=$dir:$mode")
    else
        builds+=("$label=$dir:broken:the build failed, see $dir/build.log")
    fi
}

# skip LABEL REASON: a build that this machine cannot have.
skip() {
    builds+=("$1=-:skip:$2")
}

# Whether COMPILER can build and run a program with a sanitizer.
works() {
    local probe status=0
    probe=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$probe/a.c"
    "$1" "-fsanitize=$2" -o "$probe/a" "$probe/a.c" >/dev/null 2>&1 &&
        ${3:-} "$probe/a" >/dev/null 2>&1 || status=1
    rm -rf "$probe"
    return $status
}

gcc=$(command -v gcc || command -v cc)
compiler=$gcc
# A build directory keeps its first compiler; start anew if that was another one.
if [ -f "$build/CMakeCache.txt" ] && ! grep -q "^CMAKE_C_COMPILER:[^=]*=$gcc\$" \
    "$build/CMakeCache.txt"; then
    compiler=$(sed -n 's/^CMAKE_C_COMPILER:[^=]*=//p' "$build/CMakeCache.txt")
fi
# The shared libraries are the business of the first build alone. Warnings are errors where the
# compiler is not led astray by a sanitizer's own code.
target='all checks'
add gcc-O2 "$build" full "$compiler" -DGQMM_WERROR=ON
target=checks
# Without address randomisation: TSan's shadow does not fit every kernel's layout.
still="setarch $(uname -m) -R"
if ! $still true >/dev/null 2>&1; then
    still=
fi
if works "$gcc" thread "$still"; then
    add tsan "$build/check/tsan" threads "$gcc" -DCMAKE_BUILD_TYPE=Debug \
        -DGQMM_SANITIZE=thread -DCMAKE_C_FLAGS_DEBUG="-O1 -g1"
else
    skip tsan "a program with TSan does not run here"
fi

add gcc-O0 "$build/check/gcc-O0" quick "$gcc" -DGQMM_WERROR=ON -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_C_FLAGS_DEBUG="-O0 -g"
if command -v clang >/dev/null; then
    add clang-O2 "$build/check/clang-O2" quick clang -DGQMM_WERROR=ON
else
    skip clang-O2 "clang is not installed"
fi

asan="-DCMAKE_BUILD_TYPE=Debug -DGQMM_SANITIZE=address"
if works "$gcc" address,undefined; then
    # shellcheck disable=SC2086  # options without spaces
    add asan "$build/check/asan" quick "$gcc" $asan -DCMAKE_C_FLAGS_DEBUG="-O1 -g1"
else
    skip asan "a program with ASan and UBSan does not run here"
fi

if command -v nvcc >/dev/null; then
    # No GPU runs it, so that the optimisers may rest: half of the time.
    fast=
    if nvcc --help | grep -q -e --Ofast-compile; then
        fast="--Ofast-compile=max --compress-mode=none -Xptxas=-O0"
    fi
    target='gqmm check_cuda test_decode test_stage'
    add cuda "$build/check/cuda" cuda "$gcc" -DGQMM_CUDA=ON -DGQMM_MODEL=OFF \
        -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG=-O0 -DCMAKE_CUDA_FLAGS_DEBUG=-O0 \
        -DCMAKE_CUDA_FLAGS="$fast"
else
    skip cuda "nvcc is not installed"
fi

wait "$python" || true
RUN_STILL=$still exec tests/run.sh "${builds[@]}"
