#!/bin/bash
# SPDX-License-Identifier: MIT
# run.sh: once
# run.sh: no sanitizer
# The kernels of CPUs that this one is not, under qemu-user. The library is built for 64-bit Arm and
# every row of its rooms is walked, those of neon on a CPU without i8mm; this machine's build runs
# where features are missing. In the end every row of the table must have run somewhere: one that
# did not fails when CI is set, and is a skip elsewhere. GQMM_BUILD: the build.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib.sh
build=${GQMM_BUILD:-build}
arm=$build/emulated
cores=$(nproc 2>/dev/null || echo 2)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# start ID COMMAND...: in the background, as many as there are cores; leaves ID.log and ID.rc.
start() {
    local id=$1
    shift
    while [ "$(jobs -rp | wc -l)" -ge "$cores" ]; do
        wait -n
    done
    {
        "$@" >"$tmp/$id.log" 2>"$tmp/$id.err" </dev/null
        echo $? >"$tmp/$id.rc"
    } &
}

# ended ID NAME: what became of it.
ended() {
    if [ "$(cat "$tmp/$1.rc")" = 0 ]; then
        ok "$2"
    else
        failed "$2" "status $(cat "$tmp/$1.rc") $(grep -h '^FAIL' "$tmp/$1.log" | head -n 3 |
            tr '\n' ' ')$(grep -v 'TCG doesn' "$tmp/$1.err" | tail -n 3 | tr '\n' ' ')"
    fi
}

# chooses ID NAME ISA: the table listed in ID.log gives every format to this room.
chooses() {
    expect "$2: chooses $3 for every format" test \
        "$(sed -n 's|.*/\(.*\) (chosen)|\1|p' "$tmp/$1.log" | sort -u)" = "$3"
}

# ------------------------------------------------------------------ 64-bit Arm

build_for_arm() {
    cat >"$tmp/features.c" <<'END'
#include <gqmm.h>
#include <stdio.h>
int main(void)
{
    return puts(gqmm_cpu_features()) < 0;
}
END
    TARGET='check_kernels check_op check_moe' tools/build.sh "$arm" -DGQMM_MODEL=OFF -DGQMM_CUDA=OFF \
        -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_EXE_LINKER_FLAGS=-static \
        -DGQMM_TESTS=ON -DGQMM_WERROR=ON &&
        aarch64-linux-gnu-gcc -static -Iinclude -o "$tmp/features" "$tmp/features.c" \
            "$arm/libgqmm.a" -lm
}

have_arm=
if missing=$(tools/need.sh --check emulate 2>&1); then
    if why=$(build_for_arm 2>&1); then
        ok "libgqmm builds for Arm without the libraries of the model, and a program links it"
        have_arm=1
    else
        failed "libgqmm for Arm" "$(echo "$why" | head -n 20 | tr '\n' ' ')"
    fi
else
    skipped "64-bit Arm" "$(echo "$missing" | tail -n 1 | sed 's/^ */not installed: /')"
fi
if [ "$have_arm" ]; then
    start neon qemu-aarch64 -cpu neoverse-n1 "$arm/tests/check_kernels" --quick --isa neon
    start i8mm qemu-aarch64 -cpu max "$arm/tests/check_kernels" --quick --isa neon_i8mm
    start moe qemu-aarch64 -cpu max "$arm/tests/check_moe" --quick
    start op qemu-aarch64 -cpu cortex-a72 "$arm/tests/check_op" --quick
    for cpu in cortex-a72 neoverse-n1 max; do
        start "list-$cpu" qemu-aarch64 -cpu $cpu "$arm/tests/check_kernels" --list
        start "features-$cpu" qemu-aarch64 -cpu $cpu "$tmp/features"
    done
fi

# ------------------------------------------------------------------ x86-64 with less

if [ "$(uname -m)" != x86_64 ]; then
    skipped "x86-64 with less" "this machine is another"
    have_x86=
elif ! command -v qemu-x86_64 >/dev/null; then
    skipped "x86-64 with less" "not installed: qemu-user"
    have_x86=
else
    for cpu in Nehalem Haswell; do
        start "list-$cpu" qemu-x86_64 -cpu $cpu "$build/tests/check_kernels" --list
        start "info-$cpu" qemu-x86_64 -cpu $cpu "$build/gqmm" info
        start "run-$cpu" qemu-x86_64 -cpu $cpu "$build/gqmm" run tests/data/tiny-qwen3moe-f32.gguf \
            -p "One day" -n 8 --temp 0
    done
    start nehalem qemu-x86_64 -cpu Nehalem "$build/tests/check_op" --quick
    # All rows of avx2 come from one file with one set of flags, and run natively where there is
    # AVX2: here a few of them.
    start haswell qemu-x86_64 -cpu Haswell "$build/tests/check_kernels" --quick --isa avx2 \
        --kernel '*q4_[0kn]*'
    start affine qemu-x86_64 -cpu Haswell "$build/tests/check_kernels" --quick --isa avx2 \
        --kernel 'affine3_g64_bf16/*'
    have_x86=1
fi
wait

# ------------------------------------------------------------------ what they said

# features ID NAME WORDS: the words that this CPU is said to have.
features() {
    local said
    said=$(sed -n 's/^CPU features *//p; /^neon/p' "$tmp/$1.log")
    expect "$2: features $3, found $said" test "$said" = "$3"
}

if [ "$have_arm" ]; then
    ended neon "Arm with dot products: every row of neon"
    ended i8mm "Arm with i8mm: every row of neon_i8mm"
    ended moe "Arm with i8mm: check_moe"
    ended op "Arm without dot products: check_op"
    chooses list-cortex-a72 "Arm without dot products" scalar
    chooses list-neoverse-n1 "Arm with dot products" neon
    chooses list-max "Arm with i8mm" neon_i8mm
    features features-cortex-a72 "Arm without dot products" "neon"
    features features-neoverse-n1 "Arm with dot products" "neon fp16 dotprod"
    expect "Arm with i8mm: its features" grep -q '^neon fp16 dotprod i8mm' "$tmp/features-max.log"
fi
if [ "$have_x86" ]; then
    chooses list-Nehalem "x86-64 without AVX" scalar
    chooses list-Haswell "x86-64 with AVX2" avx2
    features info-Nehalem "x86-64 without AVX" "sse2"
    features info-Haswell "x86-64 with AVX2" "sse2 avx2 fma f16c"
    ended run-Nehalem "x86-64 without AVX: gqmm run"
    ended run-Haswell "x86-64 with AVX2: gqmm run"
    ended nehalem "x86-64 without AVX: check_op"
    ended haswell "x86-64 with AVX2: some rows of avx2"
    ended affine "x86-64 with AVX2: an affine row of avx2"
fi

# ------------------------------------------------------------------ every row ran somewhere

# FORMAT/ISA of the table; those that check_kernels walks on this machine; those that passed above.
"$build/tests/check_kernels" --list >"$tmp/list"
sed 's/ .*//' "$tmp/list" | sort >"$tmp/rows"
{
    grep -v '(not on this CPU)' "$tmp/list" | sed 's/ .*//'
    cat "$tmp"/*.log 2>/dev/null | sed -n 's|^ok \([^ :]*/[^ :]*\).*|\1|p'
} | sort -u >"$tmp/ran"

# nowhere RAN: the rooms that have rows which are not in this list, and how many rows.
nowhere() {
    comm -23 "$tmp/rows" "$1" | awk -F/ '{ n[$2]++ } END { for (i in n) print i " (" n[i] ")" }' |
        sort | paste -sd ' '
}
grep -v '^q4_k/scalar$' "$tmp/ran" >"$tmp/less"
expect "planted: a row that ran nowhere is named" grep -q 'scalar (1)' <<<"$(nowhere "$tmp/less")"
rest=$(nowhere "$tmp/ran")
if [ -z "$rest" ]; then
    ok "each of the $(wc -l <"$tmp/rows") rows ran here or under emulation"
elif [ -n "${CI:-}" ]; then
    failed "rows that ran nowhere" "$rest"
else
    skipped "rows that ran nowhere" "$rest"
fi
finish check_emulated
