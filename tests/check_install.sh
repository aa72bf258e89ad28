#!/bin/sh
# SPDX-License-Identifier: MIT
# run.sh: once
# make install into a directory of its own; the README's C example then builds against that tree
# through pkg-config (shared and static) and through CMake, and runs.
set -eu
cd "$(dirname "$0")/.."
. tests/lib.sh
build=${GQMM_BUILD:-build}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
stage=$tmp/stage
root=$stage/opt/gqmm
unset MAKEFLAGS MFLAGS MAKELEVEL || true

# The first C block of the README.
example() {
    awk '/^```c$/ { on = 1; next } /^```$/ { if (on) exit } on' README.md
}

if ! make install BUILD="$build" DESTDIR="$stage" PREFIX=/opt/gqmm >"$tmp/log" 2>&1; then
    failed "make install" "$(tail -n 5 "$tmp/log" | tr '\n' ' ')"
    finish check_install
    exit 1
fi
ok "make install"
version=$(sed -n 's/^#define GQMM_VERSION_[MP][A-Z]* //p' include/gqmm.h | paste -sd.)
abi=${version%.*}
for file in include/gqmm.h include/gqmm-model.h lib/libgqmm.so lib/libgqmm.a \
    lib/libgqmm-model.so lib/libgqmm-model.a "lib/libgqmm.so.$abi" "lib/libgqmm.so.$version" \
    lib/pkgconfig/gqmm.pc lib/pkgconfig/gqmm-model.pc lib/cmake/gqmm/gqmm-config.cmake bin/gqmm; do
    expect "installs $file" test -e "$root/$file"
done
for page in docs/man/*.1; do
    [ ! -e "$page" ] || expect "installs $page" test -e "$root/share/man/man1/$(basename "$page")"
done
expect "installs no model" test -z "$(find "$stage" -name '*.gguf')"
expect "says no path of the build" test -z \
    "$(grep -rl "$(pwd)" "$root/lib/pkgconfig" "$root/lib/cmake")"
if [ -x "$root/bin/gqmm" ]; then
    expect "the installed command runs" "$root/bin/gqmm" info
fi

mkdir "$tmp/user"
example >"$tmp/user/example.c"
cat >"$tmp/user/model.c" <<'END'
#include <gqmm-model.h>
#include <stdio.h>
int main(void)
{
    gqmm_file *file = NULL;
    gqmm_error err = {0};
    printf("%s\n", gqmm_architecture_at(0));
    return gqmm_file_parse("no", 2, NULL, &file, &err) == GQMM_OK;
}
END
cat >"$tmp/user/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.16)
project(user LANGUAGES C)
set(CMAKE_C_STANDARD 11)
find_package(gqmm 0.1 REQUIRED)
add_executable(shared example.c)
target_link_libraries(shared PRIVATE gqmm::gqmm)
add_executable(static example.c)
target_link_libraries(static PRIVATE gqmm::gqmm-static)
add_executable(model model.c)
target_link_libraries(model PRIVATE gqmm::model)
add_executable(model-static model.c)
target_link_libraries(model-static PRIVATE gqmm::model-static)
END
export PKG_CONFIG_PATH="$root/lib/pkgconfig"

# with_pkgconfig NAME SOURCE PACKAGE: shared; then the archives by name.
with_pkgconfig() {
    # shellcheck disable=SC2046  # lists of words
    expect "pkg-config, shared: $1 builds" cc -std=c11 -o "$tmp/user/$1-so" "$tmp/user/$2" \
        $(pkg-config --cflags --libs "$3")
    expect "pkg-config, shared: $1 runs" env LD_LIBRARY_PATH="$root/lib" "$tmp/user/$1-so"
    # shellcheck disable=SC2046
    expect "pkg-config, static: $1 builds" cc -std=c11 -o "$tmp/user/$1-a" "$tmp/user/$2" \
        $(pkg-config --cflags --libs --static "$3" |
            sed -E "s/-l(gqmm-model|gqmm)( |\$)/-l:lib\1.a /g")
    expect "pkg-config, static: $1 runs" "$tmp/user/$1-a"
    if [ -x "$tmp/user/$1-a" ]; then
        expect "pkg-config, static: $1 needs no libgqmm.so" sh -c \
            "! readelf -d '$tmp/user/$1-a' | grep -q 'NEEDED.*libgqmm'"
    fi
}

expect "pkg-config says $version" test "$(pkg-config --modversion gqmm)" = "$version"
with_pkgconfig example example.c gqmm
with_pkgconfig model model.c gqmm-model
expect "CMake: configures" cmake -S "$tmp/user" -B "$tmp/user/b" -DCMAKE_PREFIX_PATH="$root"
expect "CMake: builds" cmake --build "$tmp/user/b"
for program in shared static model model-static; do
    expect "CMake: $program runs" "$tmp/user/b/$program"
done

# The tree may be moved as a whole.
mv "$root" "$tmp/elsewhere"
export PKG_CONFIG_PATH="$tmp/elsewhere/lib/pkgconfig"
# shellcheck disable=SC2046
expect "a moved tree still builds" cc -std=c11 -o "$tmp/user/moved" "$tmp/user/example.c" \
    $(pkg-config --cflags --libs gqmm)
finish check_install
