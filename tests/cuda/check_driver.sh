#!/bin/sh
# SPDX-License-Identifier: MIT
# A CUDA build where there is no device: no driver, one that is too old, one without a device (the
# last two are libraries made here that say so). It says which, and works as a CPU build.
set -eu
cd "$(dirname "$0")/../.."
. tests/lib.sh
check=${GQMM_BUILD:-build}/tests/check_cuda
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# driver DIR VERSION STATUS: a libcuda of that version whose cuInit() ends so.
driver() {
    mkdir -p "$tmp/$1"
    echo "int cuDriverGetVersion(int *v) { *v = $2; return 0; }
int cuInit(unsigned flags) { return (int)flags * 0 + $3; }" >"$tmp/driver.c"
    cc -shared -fPIC -o "$tmp/$1/libcuda.so.1" "$tmp/driver.c"
}

# says NAME DIR WORDS: the reason given with that directory's driver, and the rest of the program.
says() {
    LD_LIBRARY_PATH=$tmp/$2 "$check" --quick >"$tmp/out" 2>&1 || echo "status $?" >>"$tmp/out"
    expect "$1" grep -q "^ok no device: .*$3" "$tmp/out"
    expect "$1: works on the CPU" grep -q '^check_cuda: [1-9][0-9]* passed, 0 failed' "$tmp/out"
}

if "$check" --quick | grep -q '^skip .*no CUDA device'; then
    mkdir "$tmp/none"
    says "no driver" none "no CUDA driver on this machine"
    driver old 11040 0
    says "a driver too old" old "the CUDA driver is of 11.4, this build needs 1[2-9].0"
    driver empty 99000 100
    says "a driver without a device" empty "no CUDA device on this machine"
else
    skipped "machines without a device" "this one has one"
fi
finish check_driver
