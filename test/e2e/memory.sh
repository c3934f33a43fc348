#!/usr/bin/env bash
# memory.sh - an allocation that fails, wherever it is, and a thread that cannot be created: one line
# that says so, an exit code, and no checkpoint but whole ones.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

time_limit=20

# with_shim VARIABLE=VALUE PROGRAM...: see tools/alloc_shim.c.
with_shim() {
    local program

    program=$(command -v "$2")
    run env "$1" LD_PRELOAD="$programs/test/liballoc_shim.so" "$program" "${@:3}"
}

# How many allocations of its own, allocations of any kind and threads a command makes: $own, $any and
# $threads.
count() {       # PROGRAM...
    with_shim OCTET_SHIM_COUNT=counts "$@" || fail "\"$*\" fails with all its memory"
    read -r own any threads <counts
    [ "$own" -gt 20 ] || fail "\"$*\" makes $own allocations, which cannot be all"
}

# Exit code 1 or 2 and one line that names what is lacking; or, where the command can do without, at
# most a line about a save, of which there are others.
fails_well() {  # WORD VARIABLE=N PROGRAM...
    local status=0 program=$3 errors

    with_shim "${@:2}" || status=$?
    errors=$(grep -c "^$program: " "$work/stderr" || true)
    case $status in
    0)  [ "$errors" -eq "$(grep -c ": not saved: .*memory" "$work/stderr" || true)" ] ||
            fail "$2: exit code 0 and: $(cat "$work/stderr")" ;;
    1 | 2)
        [ "$errors" -eq 1 ] || fail "$2: $errors lines, expected 1: $(cat "$work/stderr")"
        grep -q "^$program: .*$1" "$work/stderr" ||
            fail "$2: no \"$1\" in: $(cat "$work/stderr")" ;;
    *)  fail "$2: exit code $status: $(tail -n 1 "$work/stderr")" ;;
    esac
    check_whole checkpoints
    rm -rf checkpoints logs made.safetensors
    n_points=$((n_points + 1))
    n_survived=$((n_survived + (status == 0)))
}

# Each allocation of the program itself, some of those that libraries make, and each thread.
sweep() {       # PROGRAM...
    local own any threads n n_points=0 n_survived=0

    rm -rf checkpoints logs made.safetensors
    count "$@"
    rm -rf checkpoints logs made.safetensors
    for ((n = 1; n <= own; n++)); do
        fails_well memory OCTET_SHIM_ALLOC=$n "$@"
    done
    # Not all of them say what they lacked.
    for ((n = 1; n <= any; n += any / 30 + 1)); do
        fails_well "" OCTET_SHIM_ALLOC_ALL=$n "$@"
    done
    for ((n = 1; n <= threads; n++)); do
        fails_well thread OCTET_SHIM_THREAD=$n "$@"
    done
    [ $n_survived -lt $((n_points / 2)) ] || fail "$n_survived of $n_points failures changed nothing"
    echo "$1: $n_points points"
}

small_run() {
    tiny_tokens 3000
    tiny_config dim=8 mlp_dim=8 depth=1 max_seq_len=16 max_steps=3 generate_samples=true \
        sample_length=5
}

in_trainer() {  # FLAG...
    small_run
    sweep trainer c.ini "$@"
}

in_prepare() {
    small_run
    sweep prepare --custom-text text.txt --output made.safetensors
}

in_sample() {
    small_run
    expect_exit 0 "done" -- trainer c.ini
    mv checkpoints/final_model.safetensors .
    sweep sample --checkpoint final_model.safetensors --prompt a --max-length 10
}

if grep -qE "__(asan|tsan)_init" "$programs/trainer"; then
    skip_case "all of memory.sh" "a sanitizer has allocations of its own"
    finish
fi
run_case in_trainer --gpus 2
run_case in_trainer --gpus 1
run_case in_prepare
run_case in_sample
finish
