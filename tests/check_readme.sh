#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh: once
# What the documents say is so: the README's C example compiles without a warning and prints what
# stands under it, its matrix is the table's, its commands and files exist; every source file has
# one licence line and is formatted.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
build=${GQMM_BUILD:-build}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# block LANGUAGE FILE: its first fenced block of that language.
block() {
    awk -v open="\`\`\`$1" '$0 == open { on = 1; next } /^```$/ { if (on) exit } on' "$2"
}

sources() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard
    else
        find . -path ./.git -prune -o -path './build*' -prune -o -type f -print | sed 's|^\./||'
    fi | grep -E '\.([ch]|def|sh|py|cu|cuh|cmake|yml)$|CMakeLists.txt$|^Makefile$|^\.ci/run$' | sort
}

block c README.md >"$tmp/example.c"
block text README.md >"$tmp/want"
for cc in gcc clang; do
    if ! command -v $cc >/dev/null; then
        skipped "example, $cc" "$cc is not installed"
        continue
    fi
    expect "the example compiles, $cc" $cc -std=c11 -Wall -Wextra -Wpedantic -Werror -I include \
        -o "$tmp/example-$cc" "$tmp/example.c" "$build/libgqmm.a" -lm -pthread
    if [ -x "$tmp/example-$cc" ]; then
        "$tmp/example-$cc" >"$tmp/got" 2>&1 || true
        expect "the example prints what the README says, $cc" diff "$tmp/want" "$tmp/got"
    fi
done

awk '/^<!-- matrix -->$/ { on = 1; next } /^<!-- \/matrix -->$/ { on = 0 } on' README.md \
    >"$tmp/matrix"
if [ -x "$build/gqmm" ]; then
    "$build/gqmm" info --matrix >"$tmp/table" 2>&1 || true
    expect "the format matrix is the table's (make readme)" diff "$tmp/matrix" "$tmp/table"
else
    failed "the format matrix is the table's" "$build/gqmm was not built"
fi

for target in $(grep -o '`make [a-z-]*' README.md CONTRIBUTING.md SECURITY.md | sed 's/.*make //' |
    sort -u); do
    expect "make $target is a target" grep -q "^$target:" Makefile
done
for link in $(grep -h -o '](\([A-Za-z][A-Za-z0-9_./-]*\))' ./*.md | tr -d '()]' | sort -u); do
    expect "link to $link" test -e "$link"
done

mark='SPDX-License-''Identifier: MIT'
bad=
for file in $(sources); do
    [ "$(grep -c "$mark" "$file" || true)" = 1 ] || bad="$bad $file"
    lines=$(wc -l <"$file")
    [ "$lines" -le 600 ] || echo "note: $file has $lines lines"
done
expect "every source file has one licence line; not so:${bad:- none}" test -z "$bad"

major=$(clang-format --version 2>/dev/null | grep -o 'version [0-9]*' | grep -o '[0-9]*' || true)
if [ "$major" = 14 ]; then
    expect "the C files are formatted (make format)" tools/format.sh --check
else
    skipped "format" "clang-format 14 is not installed (other versions differ in details)"
fi
if command -v shellcheck >/dev/null; then
    expect "shellcheck finds nothing" shellcheck -S warning -e SC2046,SC2154,SC2164 .ci/run tools/*.sh tests/*.sh
else
    skipped "shellcheck" "shellcheck is not installed"
fi
finish check_readme
