#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh: once
# run.sh: no sanitizer
# The Python package: one wheel that needs nothing but libc, installed into a clean virtual
# environment, its types, and python/tests against it. tools/python.sh makes the environment.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
build=$(cd "${GQMM_BUILD:-build}" && pwd)
venv=$build/python
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import pytest, hypothesis, ml_dtypes' \
    >/dev/null 2>&1; then
    skipped "the Python package" "$venv has no pytest (make check installs it from PyPI)"
    finish check_python
    exit
fi

if ! "$venv/bin/python" -c 'import scikit_build_core' >/dev/null 2>&1; then
    skipped "pip wheel" "scikit-build-core could not be had"
    finish check_python
    exit
fi
if ! tools/python.sh "$build" "$tmp/wheel" >"$tmp/log" 2>&1; then
    failed "pip wheel" "$(grep -E 'rror' "$tmp/log" | head -n 5 | tr '\n' ' ')"
    finish check_python
    exit
fi
wheel=$(ls "$tmp"/wheel/*.whl)
case $wheel in
*/gqmm-*-py3-none-linux_*.whl) ok "one wheel for every Python: $(basename "$wheel")" ;;
*) failed "one wheel for every Python" "$(basename "$wheel")" ;;
esac
(cd "$tmp" && "$venv/bin/python" -m zipfile -e "$wheel" unpacked)
expect "it carries py.typed, the headers and no build's path" sh -c "cd '$tmp/unpacked/gqmm' &&
    test -e py.typed && cmp include/gqmm.h '$PWD/include/gqmm.h' &&
    ! readelf -d libgqmm.so | grep -q -E 'R(UN)?PATH.*\[/'"
# What libgqmm.so asks for is libc's, or lies beside it.
foreign=$(readelf -d "$tmp"/unpacked/gqmm/*.so* | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | sort -u |
    grep -v -E '^(libc|libm|libpthread|libdl|librt|ld-linux.*)\.so' |
    while read -r name; do [ -e "$tmp/unpacked/gqmm/$name" ] || echo "$name"; done)
expect "it needs libc alone; not so:${foreign:- nothing}" test -z "$foreign"

"$venv/bin/pip" install -q --disable-pip-version-check --no-deps --force-reinstall "$wheel"
cp -r python/tests "$tmp/tests" # the tests see the installed package, not the source
GQMM_SOURCE=$PWD
export GQMM_SOURCE
(cd "$tmp" && timeout 360 "$venv/bin/python" -m pytest tests -p no:cacheprovider -q -rA --tb=short \
    --color=no >log 2>&1) || true
sed -n -e 's/^PASSED tests\//ok /p' \
    -e 's/^\(FAILED\|ERROR\) tests\/\([^ ]*\)\( - \|$\)/FAIL \2: /p' \
    -e 's/^SKIPPED \(\[[0-9]*\]\) tests\/\([^ ]*\) /skip \1 \2 /p' "$tmp/log" >"$tmp/lines"
cat "$tmp/lines"
lib_passed=$((lib_passed + $(grep -c '^ok ' "$tmp/lines" || true)))
lib_failed=$((lib_failed + $(grep -c '^FAIL ' "$tmp/lines" || true)))
lib_skipped=$((lib_skipped + $(sed -n 's/^skip \[\([0-9]*\)\].*/\1/p' "$tmp/lines" |
    awk '{ n += $1 } END { print n + 0 }')))
if [ "$(grep -c -E '^[0-9]+ passed.* in |, [0-9]+ passed.* in ' "$tmp/log")" = 0 ]; then
    failed "pytest" "$(tail -n 3 "$tmp/log" | tr '\n' ' ')"
fi

# What does not ask for torch does without it: once more where torch is (elsewhere the tests above
# were that run), with an import of it failing here and in the programs that the tests start. Leaks
# take the longest and are looked for above.
if "$venv/bin/python" -c 'import torch' >/dev/null 2>&1; then
    mkdir "$tmp/absent"
    echo 'raise ModuleNotFoundError("torch is hidden")' >"$tmp/absent/torch.py"
    expect "pytest without torch" sh -c "cd '$tmp' &&
        PYTHONPATH='$tmp/absent' '$venv/bin/python' -m pytest tests -k 'not leak' \
            -p no:cacheprovider -q --tb=no --color=no"
fi
finish check_python
