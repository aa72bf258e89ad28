#!/bin/sh
# SPDX-License-Identifier: MIT
# readme.sh BUILD: writes anew what README.md quotes from programs: the format matrix and the lines
# that its C example prints. tests/check_readme.sh compares them.
set -eu

build=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

"$build/gqmm" info --matrix >"$tmp/matrix"
awk '/^```c$/ { on = 1; next } /^```$/ { if (on) exit } on' README.md >"$tmp/example.c"
cc -std=c11 -I include -o "$tmp/example" "$tmp/example.c" "$build/libgqmm.a" -lm -pthread
"$tmp/example" >"$tmp/text"

awk -v matrix="$tmp/matrix" -v text="$tmp/text" '
    function paste(file,    line) { while ((getline line < file) > 0) print line }
    /^<!-- matrix -->$/ { print; paste(matrix); skip = 1; next }
    /^```text$/ && !done { print; paste(text); skip = 1; done = 1; next }
    /^<!-- \/matrix -->$/ || /^```$/ { skip = 0 }
    !skip { print }' README.md >"$tmp/README.md"
cat "$tmp/README.md" >README.md
