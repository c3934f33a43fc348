#!/usr/bin/env bash
# faults.sh - what happens when something goes wrong: each fault once, on four CPU workers and on four
# emulated GPUs.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bench/faults.sh BUILD_FOLDER [cpu|emulated]

Each fault hits a run of its own that goes on from its third step, in a temporary folder: four workers,
epochs of 14 steps, an evaluation, samples and a save behind each. Then the run is resumed, and must end
with the weights of one that nothing happened to (but for a gradient that is no number). On CPU workers,
on emulated GPUs, or, unless one is named, on both, where the build has the latter.

Prints a table: the fault, the exit code, the message, seconds from the start to the end of the program
(of which a rank that hangs takes the 3 of the watchdog, 5 on emulated GPUs; for the token file, from
the moment it is cut), the steps that were done and the one that the newest checkpoint has. Exit code 1 if anything is not as the tests expect it.
TEXT
}

build=${1:-} only=${2:-both}
if [ "$build" = --help ]; then
    usage
    exit
fi
if [ $# -gt 2 ] || [ ! -x "$build/trainer" ] || ! [[ $only =~ ^(cpu|emulated|both)$ ]]; then
    usage >&2
    exit 2
fi
. "$(dirname "$0")/../test/e2e/lib.sh" "$build"
readonly ENOSPC=28
shim="LD_PRELOAD=$programs/test/libdisk_shim.so ASAN_OPTIONS=verify_asan_link_order=0"

prepare_run() {
    tiny_tokens 8000
    tiny_config dropout=0.1 max_steps=18 num_epochs=2 lr_schedule=constant \
        generate_samples=true
}

# What all runs on these devices go on from, and what they are compared with.
first_steps() {
    prepare_run
    expect_exit 0 "done: 3 steps" -- trainer c.ini --gpus 4 --set training.max_steps=3
    cp -r . "$work/first"
    rm -rf checkpoints logs
    expect_exit 0 "done: 18 steps" -- trainer c.ini --gpus 4
    cp -r . "$work/straight"
}

# row WHAT CODE SECONDS STEPS STEP: with the last message of the program.
row() {
    printf '| %s | %s | %d | %s | %.1f | %d | %d |\n' "$1" "$devices" "$2" \
        "$(sed -n 's/^trainer: //p' "$work/stderr" | tail -n 1)" "$3" "$4" "$5" >>"$work/table"
}

# seconds_of COMMAND...: in $seconds; the exit code is the command's.
seconds_of() {
    local start=$EPOCHREALTIME status=0

    "$@" || status=$?
    seconds=$(awk -v start="$start" -v end="$EPOCHREALTIME" 'BEGIN { print end - start }')
    return $status
}

# fault WHAT CODE STEP TEXT SETTING...: with these in its environment the run has this exit code in time,
# and says TEXT; the newest checkpoint is that of STEP.
fault() {
    local seconds steps

    cp -r "$work/first/." .
    seconds_of expect_exit "$2" "$4" -- env "${@:5}" trainer c.ini --gpus 4 --resume auto \
        --set "distributed.watchdog=$watchdog"
    steps=$(metrics values logs/metrics.jsonl loss | wc -l)
    row "$1" "$2" "$seconds" "$steps" "$3"
    check_whole checkpoints
    [ "$2" -eq 0 ] || expect_exit 0 ".safetensors at step $3" -- trainer c.ini --gpus 4 --resume auto
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight/checkpoints/final_model.safetensors" 0
}

# The update of this step is left out, on all ranks alike, and the run is another one from there on.
not_a_number() {
    local seconds

    cp -r "$work/first/." .
    seconds_of expect_exit 0 "done: 18 steps" -- env OCTET_TEST_FAULT=nan:rank=2:phase=gradient:step=5 \
        trainer c.ini --gpus 4 --resume auto
    check_equal "the steps without an update" "$(grep '"skipped":true' logs/metrics.jsonl |
        sed 's/.*"step":\([0-9]*\),.*/\1/')" 6
    sed -n 's/^warning: \(step 6 .*\)/trainer: \1/p' "$work/stdout" >"$work/stderr"
    row "a gradient of one rank is no number" 0 "$seconds" 18 18
    check_whole checkpoints
}

# Each of the first 50 in turn; the row is that of the slowest.
allocations() {
    local seconds slowest=0 slowest_status n status before

    before=$(fingerprint "$work/first/checkpoints")
    for ((n = 1; n <= 50; n++)); do
        cp -r "$work/first/." .
        status=0
        seconds_of run env "LD_PRELOAD=$programs/test/liballoc_shim.so" OCTET_SHIM_ALLOC=$n \
            trainer c.ini --gpus 4 --resume auto || status=$?
        [[ $status =~ ^[12]$ ]] || fail "allocation $n: exit code $status"
        check_equal "lines on stderr" "$(grep -c '^trainer: .*memory' "$work/stderr")" 1
        check_equal "the checkpoints" "$(fingerprint checkpoints)" "$before"
        if awk "BEGIN { exit !($seconds > $slowest) }"; then
            slowest=$seconds slowest_status=$status
            cp "$work/stderr" "$work/slowest"
        fi
    done
    cp "$work/slowest" "$work/stderr"
    row "each of the first 50 allocations" "$slowest_status" "$slowest" 3 3
    expect_exit 0 ".safetensors at step 3" -- trainer c.ini --gpus 4 --resume auto
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight/checkpoints/final_model.safetensors" 0
}

# The run waits in its first fsync until released.
held_in_save() {
    cp -r "$work/first/." .
    # shellcheck disable=SC2086
    held fsync env $shim trainer c.ini --gpus 4 --resume auto
}

# By another program, while the run is held.
token_file_cut_short() {
    local seconds steps

    cp "$work/first/tokens.safetensors" whole
    held_in_save
    truncate -s 4096 tokens.safetensors
    release
    seconds_of ends_with 1
    check_text "$work/stderr" "tokens.safetensors: was cut short while it was being read"
    steps=$(metrics values logs/metrics.jsonl loss | wc -l)
    row "the token file is cut short" 1 "$seconds" "$steps" "$steps"
    check_whole checkpoints
    cp whole tokens.safetensors
    expect_exit 0 ".safetensors at step $steps" -- trainer c.ini --gpus 4 --resume auto
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight/checkpoints/final_model.safetensors" 0
}

# The first run is held in its first save, and ends well.
second_trainer() {
    local seconds

    held_in_save
    mkdir other
    seconds_of expect_exit 2 "in use by another run (process $pid)" -- \
        trainer c.ini --gpus 4 --resume auto --set logging.log_dir=other
    row "second trainer on one save_dir" 2 "$seconds" 14 18
    release
    ends_with 0
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight/checkpoints/final_model.safetensors" 0
}

# test_fault WHAT CODE STEP FAULT TEXT
test_fault() {
    run_case fault "$1" "$2" "$3" "$5" "OCTET_TEST_FAULT=$4"
}

# all_faults DEVICES WATCHDOG TIME_LIMIT
all_faults() {
    devices=$1 watchdog=$2 time_limit=$3
    run_case first_steps
    test_fault "a thread cannot be created" 1 3 fail:rank=2:phase=thread "rank 2: cannot start"
    test_fault "error at start-up" 1 3 fail:rank=2:phase=start "rank 2: a fault"
    test_fault "error in a step" 1 5 fail:rank=2:phase=forward:step=5 "rank 2: a fault"
    test_fault "error at a collective" 1 5 fail:rank=2:phase=collective:step=5 "rank 2: a fault"
    test_fault "error at the update" 1 6 fail:rank=2:phase=update:step=5 "rank 2: a fault"
    test_fault "error in an evaluation" 1 14 fail:rank=2:phase=evaluation:step=14 "rank 2: a fault"
    test_fault "error while writing samples" 1 14 fail:rank=0:phase=samples:step=14 "rank 0: a fault"
    test_fault "error in a save" 0 18 fail:rank=0:phase=save:step=14 "not saved: "
    test_fault "hang at start-up" 1 3 hang:rank=2:phase=start "rank 2"
    test_fault "hang in a step" 1 5 hang:rank=2:phase=forward:step=5 "rank 2"
    test_fault "hang at a collective" 1 5 hang:rank=2:phase=collective:step=5 "rank 2"
    test_fault "hang at the update" 1 6 hang:rank=2:phase=update:step=5 "rank 2"
    test_fault "hang in an evaluation" 1 14 hang:rank=2:phase=evaluation:step=14 "rank 2"
    test_fault "hang while writing samples" 1 14 hang:rank=0:phase=samples:step=14 "rank 0"
    test_fault "hang in a save" 1 3 hang:rank=0:phase=save:step=14 "rank 0"
    # shellcheck disable=SC2086
    run_case fault "full disk, once" 0 18 "not saved: " $shim "OCTET_SHIM_FAULT=pwrite:$ENOSPC:1-1"
    # shellcheck disable=SC2086
    run_case fault "full disk, for good" 1 3 "No space left" $shim \
        "OCTET_SHIM_FAULT=pwrite:$ENOSPC:1-1000"
    run_case token_file_cut_short
    run_case not_a_number
    run_case allocations
    run_case second_trainer
    rm -rf "$work/first" "$work/straight"
}

echo '| Fault | Devices | Exit code | Message | Seconds | Steps done | Resumed at |
|---|---|---|---|---|---|---|' >"$work/table"
if [ "$only" != emulated ]; then
    all_faults "CPU workers" 3 15
fi
if [ "$only" != cpu ] && [ -x "$programs/test/emulator/trainer-emulated" ]; then
    emulated_gpus 4
    # Their steps take as long as the machine has other work.
    all_faults "emulated GPUs" 5 120
fi
cat "$work/table"
finish
