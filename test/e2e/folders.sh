#!/usr/bin/env bash
# folders.sh - the folders of a run belong to it: one run at a time, one history, nothing lost.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

small_run() {       # [KEY=VALUE...]
    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=4 save_every=1 keep_last=0 "$@"
}

checkpoint_step() {
    tensors metadata "checkpoints/$1.safetensors" step
}

second_run_is_refused() {
    small_run num_epochs=2000
    in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 5
    cp "$work/stdout" first.txt
    timeout 60 trainer c.ini >out.txt 2>err.txt && fail "the second run started"
    check_text err.txt "checkpoints: in use by another run (process $pid)"
    timeout 60 trainer c.ini --set checkpoint.save_dir=other >out.txt 2>err.txt &&
        fail "the second run started"
    check_text err.txt "logs: in use by another run (process $pid)"
    stop_background TERM 143
    expect_exit 0 "stopped" -- bash -c 'trainer c.ini --resume auto & pid=$!; sleep 1; kill $pid; wait $pid; [ $? -eq 143 ]'
}

# A run resumed from an old checkpoint is another history: what the first one made later is moved.
other_history() {
    small_run
    expect_exit 0 "done" -- trainer c.ini
    expect_exit 0 "they were moved to" -- trainer c.ini --set training.learning_rate=1e-4 \
        --set checkpoint.keep_last=1 --resume checkpoints/checkpoint_epoch_2.safetensors
    [ -e checkpoints/earlier_*/checkpoint_epoch_3.safetensors ] || fail "epoch 3 was not moved"
    [ -e checkpoints/earlier_*/final_model.safetensors ] || fail "the final model was not moved"
    [ -e checkpoints/checkpoint_epoch_4.safetensors ] || fail "the newest epoch is not there"
    [ ! -e checkpoints/checkpoint_epoch_2.safetensors ] || fail "keep_last = 1 kept epoch 2"
    check_equal "rows of metrics.jsonl" "$(metrics check logs/metrics.jsonl)" \
        "$(checkpoint_step final_model) steps, 4 evaluations"
}

# Runs within one second have folders of their own.
quick_runs() {
    local i

    small_run num_epochs=1
    for i in 1 2 3 4; do
        expect_exit 0 "done" -- trainer c.ini --set run.seed="$i"
    done
    check_equal "final models of earlier runs" \
        "$(find checkpoints/earlier_* -name final_model.safetensors | wc -l)" 3
    check_equal "log files" "$(find logs -name 'train_*.log' | wc -l)" 4
}

torn_saves_are_removed() {
    small_run num_epochs=1
    mkdir checkpoints
    : >checkpoints/last_checkpoint.safetensors.tmp.12345
    expect_exit 0 "done" -- trainer c.ini
    [ ! -e checkpoints/last_checkpoint.safetensors.tmp.12345 ] || fail "it is still there"
}

nothing_usable() {
    small_run num_epochs=1
    expect_exit 0 "done" -- trainer c.ini --set checkpoint.save_optimizer=false
    expect_exit 0 "the run is complete" -- trainer c.ini --resume auto
    expect_bad "holds no optimizer state" -- trainer c.ini --resume auto \
        --set training.num_epochs=2
    tensors flip checkpoints/best_model.safetensors -5
    tensors flip checkpoints/final_model.safetensors -5
    tensors flip checkpoints/checkpoint_epoch_1.safetensors -5
    expect_exit 2 "none that a run can go on from" -- trainer c.ini --resume auto
}

checked_before_anything_is_touched() {
    small_run num_epochs=1
    expect_exit 0 "done" -- trainer c.ini
    cp checkpoints/final_model.safetensors w.safetensors
    sleep 1
    expect_bad "model.dim is" -- trainer c.ini --resume w.safetensors --set model.dim=64
    expect_bad "this model needs" -- trainer c.ini --init w.safetensors --set model.dim=64
    expect_bad "absent" -- trainer c.ini --init absent
    expect_exit 1 "✗" -- trainer c.ini --check --init w.safetensors --set model.dim=64
    expect_exit 1 "✗" -- trainer c.ini --check --resume w.safetensors --set model.dim=64
}

changed_schedule_is_announced() {
    small_run
    expect_exit 0 "done" -- trainer c.ini
    expect_exit 0 "notice: the schedule now ends at step" -- trainer c.ini --resume auto \
        --set training.num_epochs=6
}

hang_up() {
    small_run num_epochs=2000
    in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 5
    stop_background HUP 129
    [ -e checkpoints/last_checkpoint.safetensors ] || fail "nothing was saved"
}

for case in second_run_is_refused other_history quick_runs torn_saves_are_removed nothing_usable \
    checked_before_anything_is_touched changed_schedule_is_announced hang_up; do
    run_case $case
done
finish
