#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh: once
# The front door: `make help` lists every target, need.sh names what is missing and installs
# nothing when it must not, run.sh counts crashes, hangs and liars as failures.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset MAKEFLAGS MFLAGS MAKELEVEL || true

help=$(make -s help)
for target in $(sed -n 's/^\.PHONY: //p' Makefile); do
    expect "make help lists $target" sh -c "echo \"\$1\" | grep -q \"^  make $target \"" sh "$help"
done

# A machine with nothing but a shell.
mkdir "$tmp/bin"
for tool in sh id mktemp rm grep dirname cat; do
    ln -s "$(command -v $tool)" "$tmp/bin/$tool"
done
need=$(PATH=$tmp/bin tools/need.sh --check demo 2>&1) && status=0 || status=$?
expect "need.sh fails when tools are missing" test "$status" = 1
for package in gcc make cmake pkg-config libpcre2-dev libjansson-dev; do
    case $need in
    *" $package"*) ok "need.sh names $package" ;;
    *) failed "need.sh names $package" "$need" ;;
    esac
done

# The same machine with apt-get, as root; both are impostors.
printf '#!/bin/sh\necho "$@" >>"%s"\n' "$tmp/apt.log" >"$tmp/bin/apt-get"
rm "$tmp/bin/id"
printf '#!/bin/sh\necho 0\n' >"$tmp/bin/id"
chmod +x "$tmp/bin/apt-get" "$tmp/bin/id"
ln -s "$(command -v env)" "$tmp/bin/env"
need=$(PATH=$tmp/bin tools/need.sh demo 2>&1) && status=0 || status=$?
expect "need.sh installs with apt-get" grep -q '^install .* gcc .*libpcre2-dev' "$tmp/apt.log"
expect "need.sh says why before it installs" sh -c \
    'echo "$1" | grep -B 99 "^Installing" | grep -q "cmake: configures the build"' sh "$need"
expect "need.sh succeeds when apt-get does" test "$status" = 0
printf '#!/bin/sh\necho 1000\n' >"$tmp/bin/id"
rm "$tmp/apt.log"
PATH=$tmp/bin tools/need.sh demo >/dev/null 2>&1 && status=0 || status=$?
expect "need.sh without rights only names the packages" test "$status" = 1 -a ! -e "$tmp/apt.log"
tools/need.sh nonsense >/dev/null 2>&1 && status=0 || status=$?
expect "need.sh: an unknown step is a usage error" test "$status" = 2

# run.sh on a tree of its own.
mkdir -p "$tmp/tree/tests" "$tmp/tree/b/tests"
cp tests/run.sh "$tmp/tree/tests/"
# program NAME BODY: a test whose built program is a shell script.
program() {
    : >"$tmp/tree/tests/$1.c"
    printf '#!/bin/sh\n%s\n' "$2" >"$tmp/tree/b/tests/$1"
    chmod +x "$tmp/tree/b/tests/$1"
}
# counts NAME WANT BODY: what run.sh says of one program, last line alone.
counts() {
    program check_one "$3"
    got=$(GQMM_TEST_TIMEOUT=2 bash "$tmp/tree/tests/run.sh" "x=b:${mode:-full}" 2>&1) && status=0 ||
        status=$?
    last=$(echo "$got" | tail -n 1)
    if [ "$last" = "$2" ] && { [ "$status" = 0 ] || [ "${2#* 0 failed}" = "$2" ]; }; then
        ok "run.sh: $1"
    else
        failed "run.sh: $1" "said \"$last\", status $status, wanted \"$2\""
    fi
}
close='echo "check_one: 1 passed, 0 failed, 0 skipped"'
counts "a passing program" "1 passed, 0 failed, 0 skipped" "echo ok a; $close"
counts "a failing program" "1 passed, 1 failed, 0 skipped" \
    'echo ok a; echo "FAIL b: no"; echo "check_one: 1 passed, 1 failed, 0 skipped"; exit 1'
counts "a crash" "1 passed, 1 failed, 0 skipped" 'echo ok a; kill -SEGV $$'
counts "a crash after the closing line" "1 passed, 1 failed, 0 skipped" \
    "echo ok a; $close; kill -ABRT \$\$"
counts "a hang" "1 passed, 1 failed, 0 skipped" 'echo ok a; exec sleep 60'
counts "no closing line" "1 passed, 1 failed, 0 skipped" 'echo ok a'
counts "a silent exit" "0 passed, 1 failed, 0 skipped" 'exit 3'
counts "status 1 without a failure" "1 passed, 1 failed, 0 skipped" "$close; exit 1"
counts "a failure with status 0" "0 passed, 1 failed, 0 skipped" \
    'echo "FAIL a: no"; echo "check_one: 0 passed, 1 failed, 0 skipped"'
counts "skips" "0 passed, 0 failed, 1 skipped" \
    'echo "skip a: why"; echo "check_one: 0 passed, 0 failed, 1 skipped"'
mode='skip:no compiler' counts "a build that is skipped" "0 passed, 0 failed, 1 skipped" 'exit 0'
mode='broken:no luck' counts "a build that failed" "0 passed, 1 failed, 0 skipped" 'exit 0'
rm "$tmp/tree/b/tests/check_one"
got=$(bash "$tmp/tree/tests/run.sh" x=b:full | tail -n 1 || true)
expect "run.sh: a program that was not built" test "$got" = "0 passed, 1 failed, 0 skipped"
finish check_makefile
