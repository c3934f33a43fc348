#!/usr/bin/env bash
# resume.sh - a run that was stopped, or killed, goes on as if nothing had happened.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Eight epochs of 42 steps, with all that must be carried over a stop: dropout, accumulation, order,
# the best loss. Four windows in a step.
long_run() {        # WORKERS [KEY=VALUE...]
    tiny_tokens 6000
    tiny_config dropout=0.1 "batch_size=$((2 / $1))" gradient_accumulation_steps=2 max_steps=0 \
        num_epochs=8 "${@:2}"
}

# What the stopped runs are compared with.
straight() {        # WORKERS
    long_run "$1"
    expect_exit 0 "done: 336 steps" -- trainer c.ini --gpus "$1"
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "336 steps, 8 evaluations"
    mv "$work/case" "$work/straight_$1"
}

# start_and_stop WORKERS STEP SIGNAL CODE: the step at which it stopped is in $step.
start_and_stop() {
    in_background trainer c.ini --gpus "$1"
    wait_until has_steps logs/metrics.jsonl "$2"
    stop_background "$3" "$4"
    step=$(metrics values logs/metrics.jsonl loss | tail -n 1 | cut -d ' ' -f 1)
    [ ! -e checkpoints/final_model.safetensors ] || fail "the run was over before the signal"
}

check_like_straight() {     # WORKERS
    local name

    for name in final_model best_model checkpoint_epoch_8; do
        check_tensors "checkpoints/$name.safetensors" \
                      "$work/straight_$1/checkpoints/$name.safetensors" 0
    done
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "336 steps, 8 evaluations"
    check_same_run logs "$work/straight_$1/logs"
}

after_signal() {    # WORKERS SIGNAL CODE
    long_run "$1"
    start_and_stop "$1" 100 "$2" "$3"
    check_text "$work/stdout" "after step $step; --resume auto goes on"
    check_equal "the checkpoint's step" \
                "$(tensors metadata checkpoints/last_checkpoint.safetensors step)" "$step"
    expect_exit 0 "resuming checkpoints/last_checkpoint.safetensors at step $step" -- \
        trainer c.ini --resume auto --gpus "$1"
    check_like_straight "$1"
}

after_two_signals() {
    long_run 1
    start_and_stop 1 60 TERM 143
    in_background trainer c.ini --resume auto
    wait_until has_steps logs/metrics.jsonl 200
    stop_background INT 130
    expect_exit 0 "resuming" -- trainer c.ini --resume auto
    check_like_straight 1
}

# Where the CPU has no instructions for it, use_amp leaves it at float32, and this is true all the same.
in_bfloat16() {     # WORKERS
    tiny_tokens 8000
    tiny_config use_amp=true dropout=0.1 max_steps=12 eval_every=0 lr_schedule=constant
    expect_exit 0 "done: 12 steps" -- trainer c.ini --gpus "$1" \
        --set logging.log_dir=straight --set checkpoint.save_dir=straight
    expect_exit 0 "done: 5 steps" -- trainer c.ini --gpus "$1" --set training.max_steps=5
    expect_exit 0 "done: 12 steps" -- trainer c.ini --gpus "$1" --resume auto
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
}

# Nothing is named but the checkpoint: its settings, among them the paths, hold.
without_configuration() {
    long_run 1
    start_and_stop 1 100 TERM 143
    rm c.ini
    expect_exit 0 "resuming" -- trainer --resume checkpoints/last_checkpoint.safetensors
    check_no_text "$work/stdout" "in the checkpoint"
    check_like_straight 1
}

after_kill() {
    long_run 1 keep_last=0
    in_background trainer c.ini
    wait_until test -f checkpoints/checkpoint_epoch_3.safetensors
    stop_background KILL 137
    [ ! -e checkpoints/final_model.safetensors ] || fail "the run was over before the signal"
    expect_exit 0 "resuming" -- trainer c.ini --resume auto
    check_like_straight 1
    expect_exit 0 "resuming checkpoints/checkpoint_epoch_2.safetensors at step 84" -- \
        trainer c.ini --resume checkpoints/checkpoint_epoch_2.safetensors
    check_like_straight 1
}

# A signal at the end of an epoch leaves the evaluation to the resumed run. Where it comes too late
# for that, this is one more stop in between.
in_evaluation() {
    long_run 1 num_epochs=2
    tiny_tokens 60000 --train-split 0.09
    expect_exit 0 "done" -- \
        trainer c.ini --set checkpoint.save_dir=straight --set logging.log_dir=straight
    start_and_stop 1 42 TERM 143
    expect_exit 0 "resuming" -- trainer c.ini --resume auto
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    check_tensors checkpoints/best_model.safetensors straight/best_model.safetensors 0
    check_same_run logs straight
}

damaged_newest() {
    long_run 1
    start_and_stop 1 100 TERM 143
    tensors flip checkpoints/last_checkpoint.safetensors -5
    expect_exit 0 "warning: passed over: checkpoints/last_checkpoint.safetensors" -- \
        trainer c.ini --resume auto
    check_like_straight 1
}

other_workers() {   # BEFORE AFTER
    long_run "$1"
    start_and_stop "$1" 60 TERM 143
    expect_exit 0 "windows in a step" -- trainer c.ini --resume auto --gpus "$2"
    check_near_run logs "$work/straight_$1/logs" 1 "$step" 0
    check_near_run logs "$work/straight_$1/logs" "$((step + 1))" "$((step + 20))" 1e-5
    check_equal "tokens" "$(metrics values logs/metrics.jsonl tokens | tail -n 1)" \
                "336 $((336 * 4 * 32))"
}

indivisible_batch() {
    long_run 1
    start_and_stop 1 10 TERM 143
    expect_bad "4 windows in a step, which 3 workers cannot share equally" -- \
        trainer c.ini --resume auto --gpus 3
}

worker_counts() {
    local workers

    tiny_tokens 6000
    for workers in 1 2 4; do
        tiny_config dropout=0.1 "batch_size=$((4 / workers))" gradient_accumulation_steps=2 \
            max_steps=40 "save_dir=c$workers" "log_dir=l$workers"
        expect_exit 0 "done" -- trainer c.ini --gpus $workers
        metrics values l$workers/metrics.jsonl val_loss >v$workers
    done
    for workers in 2 4; do
        check_near_run l$workers l1 1 40 1e-5
        check_near "the validation loss" v$workers v1 abs 1e-5
    done
}

nothing_to_resume() {
    tiny_tokens 6000
    tiny_config
    expect_exit 0 "notice: nothing to resume in checkpoints: starting a new run" -- \
        trainer c.ini --resume auto
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "20 steps, 1 evaluations"
}

complete() {
    local before

    tiny_tokens 6000
    tiny_config
    expect_exit 0 "done: 20 steps" -- trainer c.ini
    before=$(fingerprint checkpoints)
    expect_exit 0 "the run is complete: 20 of 20 steps" -- trainer c.ini --resume auto
    check_equal "the checkpoints" "$(fingerprint checkpoints)" "$before"
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "20 steps, 1 evaluations"
    expect_exit 0 "done: 30 steps" -- trainer c.ini --resume auto --set training.max_steps=30
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "30 steps, 2 evaluations"
}

# The last step's checkpoint is there, but the end of the run was cut off.
without_final_model() {
    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=1
    expect_exit 0 "done: 42 steps" -- trainer c.ini
    mkdir straight
    mv checkpoints/final_model.safetensors straight
    expect_exit 0 "" -- trainer c.ini --resume auto
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "42 steps, 1 evaluations"
}

# The newest checkpoint was saved between an epoch's last step and its evaluation, whose row is there.
before_evaluation() {
    long_run 1 save_every=0 generate_samples=true
    OCTET_TEST_FAULT=hang:rank=0:phase=samples:step=84 \
        in_background trainer c.ini --set checkpoint.save_minutes=0.0000001
    wait_until grep -q '"step":84,"val_loss"' logs/metrics.jsonl
    wait_until newest_is best_model 84
    stop_background KILL 137
    rm checkpoints/best_model.safetensors
    expect_exit 0 "resuming checkpoints/last_checkpoint.safetensors at step 84" -- \
        trainer c.ini --resume auto --set evaluation.generate_samples=false
    check_same_run logs "$work/straight_1/logs"
}

newest_is() {       # NAME STEP
    [ "$(tensors metadata "checkpoints/$1.safetensors" step)" = "$2" ]
}

other_batch() {
    long_run 1
    start_and_stop 1 60 TERM 143
    expect_exit 0 "training.batch_size is 4 here and was 2 in the checkpoint" -- \
        trainer c.ini --resume auto --set training.batch_size=4
    metrics check logs/metrics.jsonl >/dev/null
    check_equal "the batch" "$(tensors metadata checkpoints/final_model.safetensors global_batch)" 8
    check_equal "tokens" "$(metrics values logs/metrics.jsonl tokens | sed -n "$((step + 1))p")" \
                "$((step + 1)) $((step * 128 + 256))"
}

# Whenever it is killed, also while it saves, every checkpoint is whole.
killed_often() {
    long_run 1
    for _ in {1..6}; do
        in_background trainer c.ini --resume auto --set checkpoint.save_minutes=0.0002
        sleep 0.2
        kill -9 "$pid" 2>/dev/null || break
        wait "$pid" 2>/dev/null || true
        check_whole checkpoints
    done
    expect_exit 0 "" -- trainer c.ini --resume auto
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight_1/checkpoints/final_model.safetensors" 0
    check_near_run logs "$work/straight_1/logs" 1 336 0
}

# Killed while its Nth checkpoint is written (behind so many bytes), made durable or given its name.
killed_in_save() {  # CALL N [BYTES]
    long_run 1
    OCTET_SHIM_FAULT=$1:KILL:$2-$2${3:+:$3} expect_exit 137 "" -- trainer c.ini
    check_whole checkpoints
    expect_exit 0 "" -- trainer c.ini --resume auto
    check_like_straight 1
}

# Worse weights behind a resume do not take the place of the best.
best_is_remembered() {
    local before

    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=1
    expect_exit 0 "done" -- trainer c.ini
    before=$(sha256sum checkpoints/best_model.safetensors)
    expect_exit 0 "done: 84 steps" -- \
        trainer c.ini --resume auto --set training.num_epochs=2 --set training.learning_rate=5
    check_equal "the best model" "$(sha256sum checkpoints/best_model.safetensors)" "$before"
}

other_data() {
    long_run 1
    start_and_stop 1 60 TERM 143
    tiny_tokens 7000
    expect_exit 0 "warning: tokens.safetensors holds other tokens than the checkpoint" -- \
        trainer c.ini --resume auto
    metrics check logs/metrics.jsonl >/dev/null
}

by_time() {
    long_run 1 save_optimizer=false save_every=2 eval_every=0
    in_background trainer c.ini --set checkpoint.save_minutes=0.001
    wait_until test -f checkpoints/checkpoint_epoch_2.safetensors
    stop_background KILL 137
    expect_bad "checkpoint_epoch_2.safetensors: holds no optimizer state" -- \
        trainer c.ini --resume checkpoints/checkpoint_epoch_2.safetensors
    expect_exit 0 "resuming checkpoints/last_checkpoint.safetensors" -- trainer c.ini --resume auto
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight_1/checkpoints/final_model.safetensors" 0 ""
    check_near_run logs "$work/straight_1/logs" 1 336 0
}

run_case straight 1
run_case straight 2
run_case after_signal 1 TERM 143
run_case after_signal 1 INT 130
run_case after_signal 2 TERM 143
run_case after_two_signals
run_case in_bfloat16 1
run_case in_bfloat16 2
run_case without_configuration
run_case after_kill
run_case in_evaluation
run_case damaged_newest
run_case other_workers 1 2
run_case other_workers 2 1
run_case indivisible_batch
run_case worker_counts
run_case nothing_to_resume
run_case complete
run_case without_final_model
run_case before_evaluation
run_case other_batch
run_case other_data
run_case by_time
run_case killed_often
run_case best_is_remembered
shim_disk
run_case killed_in_save posix_fallocate 1
run_case killed_in_save pwrite 1
run_case killed_in_save pwrite 2 50000
run_case killed_in_save pwrite 3 100000
run_case killed_in_save fsync 1
run_case killed_in_save fsync 3
run_case killed_in_save rename 1
run_case killed_in_save rename 2
run_case killed_in_save rename 5
finish
