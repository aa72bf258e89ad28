# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# What the shell tests share; sourced from the repository root. Each ends with `finish NAME`.
lib_passed=0
lib_failed=0
lib_skipped=0

ok() {
    echo "ok $*"
    lib_passed=$((lib_passed + 1))
}

# failed NAME WHY, skipped NAME REASON
failed() {
    echo "FAIL $1: $2"
    lib_failed=$((lib_failed + 1))
}

skipped() {
    echo "skip $1: $2"
    lib_skipped=$((lib_skipped + 1))
}

# expect NAME COMMAND...: ok when the command succeeds; its output is shown when it does not.
expect() {
    lib_name=$1
    shift
    if lib_out=$("$@" 2>&1); then
        ok "$lib_name"
    else
        failed "$lib_name" "$(printf '%s' "$lib_out" | head -n 20 | tr '\n' ' ')"
    fi
}

finish() {
    echo "$1: $lib_passed passed, $lib_failed failed, $lib_skipped skipped"
    [ "$lib_failed" -eq 0 ]
}
