#!/usr/bin/env bash
# install.sh - `meson install` gives programs that work from any folder, with their configurations.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

programs=$(cd "$1" && pwd)

installed_programs() {
    local prefix

    DESTDIR=$PWD/root meson install -C "$programs" --no-rebuild >"$work/stdout" 2>"$work/stderr" ||
        fail "meson install failed"
    prefix=$(find "$PWD/root" -type d -name bin)
    check_files "$prefix" prepare sample trainer
    check_files "$prefix/../share/octet" config datasets
    [ -s "$prefix/../share/octet/datasets/sample.txt" ] || fail "sample.txt is not installed"
    [ -s "$prefix/../share/octet/config/default.ini" ] || fail "default.ini is not installed"
    expect_exit 0 "tokens" -- "$prefix/prepare" --output toy.safetensors
    expect_exit 0 "ready to train" -- "$prefix/trainer" config/tiny.ini --check \
        --set data.dataset_path=toy.safetensors
}

run_case installed_programs
finish
