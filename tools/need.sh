#!/bin/sh
# SPDX-License-Identifier: MIT
# need.sh [--check] build|demo|check|emulate|peers|fuzz: makes sure that what the step needs is here.
# Says what is missing and why, then installs it with apt where that works without a password
# (root, or sudo -n); otherwise, and with --check, names the packages and exits 1.
set -eu

only_check=
[ "${1:-}" != --check ] || { only_check=1; shift; }
step=${1:-build}

has() {
    command -v "$1" >/dev/null 2>&1
}

has_library() {
    has pkg-config && pkg-config --exists "$1"
}

has_venv() {
    has python3 && python3 -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 8))' \
        >/dev/null 2>&1
}

# Links a program with clang's own runtime: Debian packs it apart from the compiler.
has_fuzzer() {
    has clang || return 1
    probe=$(mktemp -d)
    echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return !p && n; }' \
        >"$probe/a.c"
    result=0
    clang -fsanitize=fuzzer,address,undefined -o "$probe/a" "$probe/a.c" >/dev/null 2>&1 || result=1
    rm -rf "$probe"
    return $result
}

missing=
packages=
# want PACKAGE REASON TEST...: notes the package when the test fails.
want() {
    package=$1
    reason=$2
    shift 2
    "$@" && return
    packages="$packages $package"
    missing="$missing    $package: $reason
"
}

need_build() {
    want gcc "the C compiler" has cc
    want libc6-dev "the C library's headers" has_libc cc
    want make "runs the build" has make
    want cmake "configures the build" has cmake
    want pkg-config "finds the libraries below" has pkg-config
    want libpcre2-dev "the tokenizer's regular expressions" has_library libpcre2-8
    want libjansson-dev "the JSON header of safetensors files" has_library jansson
}

has_libc() {
    has "$1" && echo '#include <stdio.h>' | "$1" -E - >/dev/null 2>&1
}

need_check() {
    need_build
    want g++ "compiles the public headers as C++" has c++
    want python3 "reads JSON in the tests of the command" has python3
    want python3-venv "holds the Python package and what tests it" has_venv
}

need_emulate() {
    want gcc-aarch64-linux-gnu "compiles for 64-bit Arm" has aarch64-linux-gnu-gcc
    want libc6-dev-arm64-cross "the C library for 64-bit Arm" has_libc aarch64-linux-gnu-gcc
    want qemu-user "runs programs of other CPUs" has qemu-aarch64
}

need_peers() {
    need_build
    want python3-venv "holds the packages compared with" has_venv
}

need_fuzz() {
    need_build
    want clang "libFuzzer comes with it" has clang
    want libclang-rt-dev "libFuzzer and the sanitizers of clang" has_fuzzer
}

apt() {
    if [ "$(id -u)" = 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive apt-get "$@"
    fi
}

can_install() {
    [ -z "$only_check" ] && has apt-get || return 1
    [ "$(id -u)" = 0 ] || sudo -n true >/dev/null 2>&1
}

install_packages() {
    apt update -qq || echo "need.sh: apt-get update failed; trying with the lists at hand" >&2
    # shellcheck disable=SC2086  # a list of words
    apt install -y -qq --no-install-recommends $packages >/dev/null
}

case $step in
build | demo) need_build ;;
check) need_check ;;
emulate) need_emulate ;;
peers) need_peers ;;
fuzz) need_fuzz ;;
*)
    echo "usage: need.sh [--check] build|demo|check|emulate|peers|fuzz" >&2
    exit 2
    ;;
esac

[ -n "$packages" ] || exit 0
echo "Missing for this step:" >&2
printf '%s' "$missing" >&2
if ! can_install; then
    echo "Install these packages (names as in Debian), then run this again:" >&2
    echo "   $packages" >&2
    exit 1
fi
echo "Installing with apt-get:$packages" >&2
install_packages || {
    echo "need.sh: apt-get could not install:$packages" >&2
    exit 1
}
