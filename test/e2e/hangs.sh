#!/usr/bin/env bash
# hangs.sh - a worker that fails or is never heard of again: the run ends soon and names it, and what the
# others have is saved, from where the run goes on as if nothing had happened.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
time_limit=15

# Epochs of 14 steps on four workers.
prepare_run() {
    tiny_tokens 8000
    tiny_config dropout=0.1 max_steps=18 num_epochs=2 lr_schedule=constant generate_samples=true
}

straight() {
    prepare_run
    expect_exit 0 "done: 18 steps" -- trainer c.ini --gpus 4
    mv "$work/case" "$work/straight"
}

# The run of three steps that all others go on from.
first_steps() {
    prepare_run
    expect_exit 0 "done: 3 steps" -- trainer c.ini --gpus 4 --set training.max_steps=3
    mv "$work/case" "$work/first"
}

# fault FAULT TEXT...: each TEXT is in the one message of the run that goes on with this fault.
fault() {
    local text

    cp -r "$work/first/." .
    OCTET_TEST_FAULT=$1 expect_exit 1 "" -- trainer c.ini --gpus 4 --resume auto \
        --set distributed.watchdog=3
    check_equal "the number of messages" "$(grep -c "^trainer: " "$work/stderr")" 1
    for text in "${@:2}"; do
        check_text "$work/stderr" "$text"
    done
    grep -q "error: .*$2" logs/train_*.log || fail "no log file says why the run failed"
    check_whole checkpoints
}

goes_on() {         # STEP
    expect_exit 0 ".safetensors at step $1" -- trainer c.ini --gpus 4 --resume auto \
        --set distributed.watchdog=600
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight/checkpoints/final_model.safetensors" 0
    check_tensors checkpoints/best_model.safetensors \
                  "$work/straight/checkpoints/best_model.safetensors" 0
}

rescued() {         # STEP FAULT TEXT...
    fault "${@:2}"
    check_equal "the checkpoint's step" \
                "$(tensors metadata checkpoints/last_checkpoint.safetensors step)" "$1"
    goes_on "$1"
}

not_rescued() {     # FAULT TEXT...
    local before

    before=$(fingerprint "$work/first/checkpoints")
    fault "$@"
    check_equal "the checkpoints" "$(fingerprint checkpoints | grep -v tmp)" "$before"
    goes_on 3
}

failed_save() {
    cp -r "$work/first/." .
    OCTET_TEST_FAULT=fail:rank=0:phase=save:step=14 expect_exit 0 "not saved: a fault" -- \
        trainer c.ini --gpus 4 --resume auto
    check_tensors checkpoints/final_model.safetensors \
                  "$work/straight/checkpoints/final_model.safetensors" 0
}

alone() {
    prepare_run
    OCTET_TEST_FAULT=hang:rank=0:phase=forward:step=4 \
        expect_exit 1 "rank 0 (CPU worker 0) hangs in a step" -- \
        trainer c.ini --gpus 1 --set distributed.watchdog=1
}

unwatched() {
    prepare_run
    OCTET_TEST_FAULT=hang:rank=1:phase=forward:step=1 expect_exit 137 "" -- \
        timeout -s KILL 3 trainer c.ini --gpus 2 --set distributed.watchdog=0
}

# A process that was stopped for a while does not hang.
stopped_for_a_while() {
    prepare_run
    in_background trainer c.ini --gpus 2 --set distributed.watchdog=5 --set training.max_steps=1000 \
        --set evaluation.eval_every=0
    wait_until has_steps logs/metrics.jsonl 10
    kill -STOP "$pid"
    sleep 7
    kill -CONT "$pid"
    wait "$pid" || fail "the run that was stopped failed: $(tail -n 1 "$work/stderr")"
}

run_case straight
run_case first_steps
run_case rescued 5 hang:rank=2:phase=forward:step=5 "rank 2 (CPU worker 2) hangs in a step" \
    "; waiting in an all-reduce: rank 0, 1, 3"
run_case rescued 5 hang:rank=0:phase=forward:step=5 "rank 0 (CPU worker 0) hangs in a step"
run_case rescued 5 hang:rank=1:phase=collective:step=5 "rank 1 (CPU worker 1) hangs in a step" \
    "; waiting in an all-reduce: rank 0, 2, 3"
run_case rescued 6 hang:rank=0:phase=update:step=5 "rank 0 (CPU worker 0) hangs in a step" \
    "; waiting in a barrier: rank 1, 2, 3"
run_case rescued 14 hang:rank=0:phase=evaluation:step=14 "rank 0 (CPU worker 0) hangs in an evaluation"
run_case rescued 14 hang:rank=0:phase=samples:step=14 "rank 0 (CPU worker 0) hangs while writing samples"
run_case not_rescued hang:rank=3:phase=start:step=0 "rank 3 (CPU worker 3) hangs at the start"
run_case not_rescued hang:rank=0:phase=save:step=14 "rank 0 (CPU worker 0) hangs in a save"
run_case not_rescued fail:rank=1:phase=start "rank 1: a fault for a test (start"
run_case not_rescued fail:rank=2:phase=thread "rank 2: cannot start its thread"
run_case rescued 5 fail:rank=0:phase=forward:step=5 "rank 0: a fault for a test (forward"
run_case rescued 5 fail:rank=2:phase=collective:step=5 "rank 2: a fault for a test (collective"
run_case rescued 6 fail:rank=0:phase=update:step=5 "rank 0: a fault for a test (update"
run_case rescued 14 fail:rank=0:phase=evaluation:step=14 "rank 0: a fault for a test (evaluation"
run_case rescued 14 fail:rank=3:phase=evaluation:step=14 "rank 3: a fault for a test (evaluation"
run_case rescued 14 fail:rank=0:phase=samples:step=14 "rank 0: a fault for a test (samples"
run_case failed_save
run_case alone
run_case unwatched
run_case stopped_for_a_while
finish
