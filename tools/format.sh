#!/bin/sh
# SPDX-License-Identifier: MIT
# format.sh [--check]: clang-format over the C files; with --check lists those that would change.
set -eu

mode=${1:-}
status=0
for file in $(find include src cli tests bench tools -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | sort); do
    if [ "$mode" = --check ]; then
        clang-format "$file" | cmp -s - "$file" || { echo "$file"; status=1; }
    else
        clang-format -i "$file"
    fi
done
exit $status
