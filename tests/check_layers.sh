#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh: once
# Who may include whom. base <- format <- kernel <- op; io beside kernel; model on the public
# headers and base; cli on the public headers; rooms under kernel/ never see each other.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh

# violations ROOT: every include that breaks the rule, one a line. Names resolve as the compiler
# searches: beside the file, in include/, in src/.
violations() {
    (cd "$1" && find include src cli bench -type f 2>/dev/null | sort) >"$tmp/files" || true
    (cd "$1" && grep -E '\.(c|h|def|cu|cuh)$' "$tmp/files" | xargs -r grep -nE \
        '^[[:space:]]*#[[:space:]]*include' /dev/null || true) | awk -v files="$tmp/files" '
        BEGIN {
            while ((getline line < files) > 0)
                exists[line] = 1
            # "room" is any folder under kernel/; a layer may always include itself.
            n = split("format>base kernel>base kernel>format op>base op>format op>kernel " \
                "room>base room>format room>kernel io>base io>format model>base " \
                "base>public format>public kernel>public room>public op>public io>public " \
                "model>public cli>public io>model-public model>model-public cli>model-public " \
                "model-public>public cli>bench", words, " ")
            for (i = 1; i <= n; i++)
                allowed[words[i]] = 1
        }
        function layer(path,    part, k) {
            k = split(path, part, "/")
            if (part[1] == "include")
                return part[2] == "gqmm.h" ? "public" : "model-public"
            if (part[1] != "src")
                return part[1]
            return part[2] == "kernel" && k > 3 ? "room " part[3] : part[2]
        }
        function kind(name) { return name ~ /^room / ? "room" : name }
        function tidy(path,    part, k, i, out, depth) { # without . and ..
            k = split(path, part, "/")
            depth = 0
            for (i = 1; i <= k; i++) {
                if (part[i] == "..")
                    depth--
                else if (part[i] != ".")
                    out[++depth] = part[i]
            }
            path = out[1]
            for (i = 2; i <= depth; i++)
                path = path "/" out[i]
            return path
        }
        function resolve(file, name,    here) {
            here = file
            sub(/[^\/]*$/, "", here)
            if (tidy(here name) in exists) return tidy(here name)
            if (tidy("include/" name) in exists) return tidy("include/" name)
            if (tidy("src/" name) in exists) return tidy("src/" name)
            return "nowhere/" name
        }
        # base, format, kernel and op stand on the C library alone.
        function foreign(from, name) {
            if (from == "cli") return 0
            if (name == "jansson.h") return from != "io" && from != "model"
            if (name == "pcre2.h") return from != "model"
            return name ~ /^(editline|readline|curl)/
        }
        {
            split($0, field, ":")
            file = field[1]
            text = $0
            sub(/^[^:]*:[^:]*:/, "", text)
            name = text
            sub(/^[^<"]*[<"]/, "", name)
            sub(/[>"].*/, "", name)
            from = layer(file)
            if (text ~ /</ && name !~ /^gqmm/) {
                if (foreign(from, name))
                    print file ":" field[2] ": " from " includes <" name ">"
                next
            }
            to = layer(resolve(file, name))
            if (from != to && !((kind(from) ">" kind(to)) in allowed))
                print file ":" field[2] ": " from " must not include \"" name "\" (" to ")"
        }'
}

# planted NAME FILE TEXT: a tree with one wrong include must be caught.
planted() {
    mkdir -p "$tmp/tree/$(dirname "$2")"
    echo "$3" >"$tmp/tree/$2"
    if [ -n "$(violations "$tmp/tree")" ]; then
        ok "planted: $1"
    else
        failed "planted: $1" "$3 in $2 was not caught"
    fi
    rm "$tmp/tree/$2"
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/tree"
for file in include/gqmm.h include/gqmm-model.h src/base/num.h src/format/format.h \
    src/kernel/kernel.h src/kernel/avx2/avx2.h src/op/op.h src/io/map.h src/model/model.h; do
    mkdir -p "$tmp/tree/$(dirname "$file")"
    : >"$tmp/tree/$file"
done
echo '#include "kernel/kernel.h"' >"$tmp/tree/src/op/good.c"
expect "a tree without violations is clean" test -z "$(violations "$tmp/tree")"
planted "base sees format" src/base/a.c '#include "format/format.h"'
planted "format sees kernel" src/format/a.h '#  include "kernel/kernel.h"'
planted "kernel sees op" src/kernel/a.c '#include "op/op.h"'
planted "kernel sees a room" src/kernel/a.c '#include "kernel/avx2/avx2.h"'
planted "a room sees another" src/kernel/scalar/a.c '#include "kernel/avx2/avx2.h"'
planted "op sees io" src/op/a.c '#include "io/map.h"'
planted "op sees a room" src/op/a.c '#include "kernel/avx2/avx2.h"'
planted "io sees kernel" src/io/a.c '#include "kernel/kernel.h"'
planted "model sees op" src/model/a.c '#include "op/op.h"'
planted "model sees io" src/model/a.c '#include "io/map.h"'
planted "model sees format" src/model/a.c '#include "format/format.h"'
planted "cli sees model" cli/a.c '#include "model/model.h"'
planted "cli sees base" cli/a.c '#include "../src/base/num.h"'
planted "op sees gqmm-model.h" src/op/a.c '#include <gqmm-model.h>'
planted "op sees jansson" src/op/a.c '#include <jansson.h>'
planted "a header that is not there" src/op/a.c '#include "op/none.h"'

violations . >"$tmp/found"
for part in include src/base src/format src/kernel src/op src/io src/model cli; do
    bad=$(grep "^$part/" "$tmp/found" || true)
    if [ -z "$bad" ]; then
        ok "layers: $part"
    else
        failed "layers: $part" "$(echo "$bad" | tr '\n' ';')"
    fi
done
finish check_layers
