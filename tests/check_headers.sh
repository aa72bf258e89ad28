#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh: once
# The public headers stand alone, twice in one file, as C99 and C++11; the headers of base and
# format, which CUDA shares, as C11 and C++17.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
strict='-Wall -Wextra -Wpedantic -pedantic-errors -Werror -fsyntax-only'

# compile NAME COMPILER STANDARD LANGUAGE HEADER
compile() {
    if ! command -v "$2" >/dev/null 2>&1; then
        skipped "$1" "$2 is not installed"
        return
    fi
    printf '#include "%s"\n#include "%s"\nint main(void);\nint main(void) { return 0; }\n' "$5" "$5" \
        >"$tmp/a.$4"
    # shellcheck disable=SC2086  # a list of options
    expect "$1" "$2" "-std=$3" $strict -Wno-unused-function -I include -I src "$tmp/a.$4"
}

for header in gqmm.h gqmm-model.h; do
    for cc in gcc clang; do
        compile "$header: C99, $cc" $cc c99 c $header
        compile "$header: C11, $cc" $cc c11 c $header
    done
    for cxx in g++ clang++; do
        compile "$header: C++11, $cxx" $cxx c++11 cc $header
        compile "$header: C++20, $cxx" $cxx c++20 cc $header
    done
done
for path in src/base/num.h src/format/*.h; do
    [ -e "$path" ] || continue
    header=${path#src/}
    compile "$header: C11, gcc" gcc c11 c "$header"
    compile "$header: C++17, g++" g++ c++17 cc "$header"
done
finish check_headers
