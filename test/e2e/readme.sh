#!/usr/bin/env bash
# readme.sh - runs every command of the README as it is written there, in their order and in one folder
# that looks like a checkout; and compares its table of settings with the program's.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

root=$(cd "$here/../.." && pwd)
programs=$(cd "$1" && pwd)

# The lines of its sh blocks. The scripts have a test of their own, TensorBoard is another project, and
# what begins with "trainer" is for GPUs.
readme_commands() {
    awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$root/README.md" |
        grep -v -e '^scripts/' -e '^tensorboard ' -e '^trainer ' -e '^sbatch '
}

commands_as_written() {
    local command n=0

    mkdir datasets
    cp -r "$root/config" .
    cp "$root/datasets/sample.txt" datasets
    ln -s "$programs" build
    while IFS= read -r command; do
        expect_exit 0 "" -- bash -c "$command" </dev/null
        n=$((n + 1))
    done < <(readme_commands)
    [ $n -ge 6 ] || fail "only $n commands were found"
}

settings_as_printed() {
    CHECK=1 run bash "$root/scripts/update_readme.sh" "$programs/trainer" ||
        fail "$(cat "$work/stderr")"
}

time_limit=300
run_case commands_as_written
run_case settings_as_printed
finish
