#!/usr/bin/env bash
# saving.sh - checkpoints are written beside the steps: each is the state of its own step, the next save
# waits for it, and so does the end, however that comes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Epochs of 42 steps, of which each saves one file; then best_model and final_model.
epochs() {          # [KEY=VALUE...]
    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=4 eval_every=0 "$@"
}

# The first save waits in its first write until released, 20 steps behind it.
held_beside_steps() {       # PROGRAM...
    to_be_held pwrite "$@"
    wait_until has_steps logs/metrics.jsonl 62
    check_equal "the waiting save" "$(ls hold.held)" hold.held
}

step_of() {         # NAME
    tensors metadata "checkpoints/$1.safetensors" step
}

# Every file is as without a thread, although training went on while the first was written.
steps_go_on() {     # WORKERS
    local name

    epochs batch_size=$((4 / $1)) keep_last=0
    expect_exit 0 "done: 168 steps" -- trainer c.ini --gpus "$1" --set checkpoint.background=false \
        --set checkpoint.save_dir=straight --set logging.log_dir=straight
    held_beside_steps trainer c.ini --gpus "$1"
    check_equal "the checkpoints" "$(find checkpoints -name '*.safetensors')" ""
    release
    ends_with 0
    for name in checkpoint_epoch_{1,2,3,4} best_model final_model; do
        check_tensors checkpoints/$name.safetensors straight/$name.safetensors 0
        check_equal "step of $name" "$(step_of "$name")" \
            "$(tensors metadata "straight/$name.safetensors" step)"
    done
    check_same_run logs straight
}

# After the evaluation of an epoch both the best model and the epoch are saved: one copy, no wait.
two_names() {
    epochs eval_every=1 num_epochs=2
    held_beside_steps trainer c.ini
    release
    ends_with 0
    check_files checkpoints checkpoint_epoch_{1,2}.safetensors best_model.safetensors \
        final_model.safetensors
    check_equal "step of the epoch" "$(step_of checkpoint_epoch_1)" 42
    check_whole checkpoints
}

killed() {
    local before

    epochs num_epochs=1
    expect_exit 0 "done" -- trainer c.ini
    before=$(fingerprint checkpoints)
    held pwrite trainer c.ini --resume auto --set training.num_epochs=2000
    wait_until has_steps logs/metrics.jsonl 100
    stop_background KILL 137
    release
    rm checkpoints/*.tmp.*
    check_equal "the checkpoints" "$(fingerprint checkpoints)" "$before"
    expect_exit 0 "done: 84 steps" -- trainer c.ini --resume auto --set training.num_epochs=2
    check_equal "what is left of saves" "$(find checkpoints -name '*.tmp.*')" ""
}

# A run that fails waits for the save, and then saves what it has.
failure_waits() {
    epochs
    OCTET_TEST_FAULT=fail:rank=0:phase=forward:step=70 held_beside_steps trainer c.ini
    wait_until has_steps logs/metrics.jsonl 70
    release
    ends_with 1
    check_equal "step of the epoch" "$(step_of checkpoint_epoch_1)" 42
    check_equal "step of what was rescued" "$(step_of last_checkpoint)" 70
    check_files checkpoints checkpoint_epoch_1.safetensors last_checkpoint.safetensors
}

# But not for one that hangs, beside which nothing is written.
failure_with_a_hang() {
    epochs
    OCTET_TEST_FAULT=fail:rank=1:phase=forward:step=70 held_beside_steps trainer c.ini --gpus 2 \
        --set training.batch_size=2 --set distributed.watchdog=1
    ends_with 1
    check_equal "the number of messages" "$(grep -c "^trainer: " "$work/stderr")" 1
    check_text "$work/stderr" "rank 1: a fault for a test (forward"
    check_text "$work/stdout" "not saved: rank 0 (CPU worker 0) hangs in a save"
    check_equal "the checkpoints" "$(find checkpoints -name '*.safetensors')" ""
}

# The next save, of another state, waits for it and finds it.
hang() {
    epochs
    held_beside_steps trainer c.ini --set distributed.watchdog=1
    ends_with 1
    check_equal "steps" "$(wc -l <logs/metrics.jsonl)" 84
    check_text "$work/stderr" "rank 0 (CPU worker 0) hangs in a save"
    check_equal "the checkpoints" "$(find checkpoints -name '*.safetensors')" ""
}

# On CPU workers the copy is in the plan: 12 bytes a parameter, once.
planned() {
    epochs
    expect_exit 0 ", saving 0.3, " -- trainer c.ini --gpus 4 --set training.batch_size=1
    expect_exit 0 ", saving 0.0, " -- trainer c.ini --set checkpoint.background=false
}

no_thread() {
    epochs
    OCTET_TEST_FAULT=fail:rank=0:phase=saver \
        expect_exit 1 "cannot start the thread that saves in the background" -- trainer c.ini
    check_equal "lines on stderr" "$(wc -l <"$work/stderr")" 1
    OCTET_TEST_FAULT=fail:rank=0:phase=saver \
        expect_exit 0 "done" -- trainer c.ini --set checkpoint.background=false
}

shim_disk
run_case steps_go_on 1
run_case steps_go_on 2
run_case two_names
run_case killed
run_case failure_waits
run_case failure_with_a_hang
run_case hang
run_case planned
run_case no_thread
finish
