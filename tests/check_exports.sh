#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh: once
# The shared libraries export exactly the functions of their header, and every global name of the
# archives begins with gqmm_.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
build=${GQMM_BUILD:-build}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# The functions that a header declares with GQMM_API, sorted.
declared() {
    tr '\n' ' ' <"$1" | grep -o 'GQMM_API [^(;]*(' | grep -o 'gqmm_[a-z0-9_]*($' | tr -d '(' |
        sort -u
}

exported() {
    nm -D --defined-only "$1" | awk '{ print $NF }' | sed 's/@.*//' |
        grep -v -E '^(_init|_fini|_edata|_end|__bss_start)$' | sort -u
}

# same NAME HEADER LIBRARY
same() {
    if [ ! -e "$build/$3" ]; then
        failed "$1" "$build/$3 was not built"
        return
    fi
    declared "$2" >"$tmp/declared"
    exported "$build/$3" >"$tmp/exported"
    missing=$(comm -23 "$tmp/declared" "$tmp/exported" | tr '\n' ' ')
    extra=$(comm -13 "$tmp/declared" "$tmp/exported" | tr '\n' ' ')
    if [ ! -s "$tmp/declared" ]; then
        failed "$1" "$2 declares nothing"
    elif [ -n "$missing$extra" ]; then
        failed "$1" "declared and not exported: ${missing:-none}; exported and not declared: ${extra:-none}"
    else
        ok "$1 ($(wc -l <"$tmp/exported") functions)"
    fi
}

prefixed() {
    bad=$(nm -g --defined-only "$build/$1" 2>/dev/null | awk 'NF == 3 { print $3 }' |
        grep -v '^gqmm_' | sort -u | tr '\n' ' ' || true)
    expect "$1 holds only gqmm_ names $bad" test -f "$build/$1" -a -z "$bad"
}

soname() {
    want="$1.so.$(sed -n 's/^#define GQMM_VERSION_M[A-Z]* //p' include/gqmm.h | paste -sd.)"
    got=$(readelf -d "$build/$1.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
    expect "$1: soname $got" test "$got" = "$want"
}

# The tool must see a name that does not belong: its own planted library.
printf 'int gqmm_known(void);\nint gqmm_known(void) { return 0; }\nint stray(void);\nint stray(void) { return 0; }\n' \
    >"$tmp/a.c"
if cc -shared -fPIC -o "$tmp/a.so" "$tmp/a.c" 2>/dev/null; then
    expect "planted: a stray export is seen" test "$(exported "$tmp/a.so" | tr '\n' ' ')" = \
        "gqmm_known stray "
fi
same "libgqmm.so exports gqmm.h" include/gqmm.h libgqmm.so
same "libgqmm-model.so exports gqmm-model.h" include/gqmm-model.h libgqmm-model.so
prefixed libgqmm.a
prefixed libgqmm-model.a
soname libgqmm
soname libgqmm-model
finish check_exports
