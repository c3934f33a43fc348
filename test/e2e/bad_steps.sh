#!/usr/bin/env bash
# bad_steps.sh - steps whose loss or gradient is no number, or leaps: they change no weights; after several
# in a row the run goes back to what it saved, and ends when that does not help.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Epochs of 28 steps on two workers.
prepare_run() {
    tiny_tokens 8000
    tiny_config dropout=0.1 max_steps=56 num_epochs=2 lr_schedule=constant "$@"
}

# run_with FAULT CODE TEXT [FLAG...]
run_with() {
    OCTET_TEST_FAULT=$1 expect_exit "$2" "$3" -- trainer c.ini --gpus 2 "${@:4}"
}

# How many steps in metrics.jsonl changed no weights.
n_skipped() {
    grep -c '"skipped":true' logs/metrics.jsonl || true
}

# The k-th row of metrics.jsonl on is what `straight` has from its k-th: all rows before a bad step are.
check_same_start() {        # STEPS
    metrics values logs/metrics.jsonl loss | within 1 "$1" >"$work/a"
    metrics values "$work/straight/logs/metrics.jsonl" loss | within 1 "$1" >"$work/b"
    cmp -s "$work/a" "$work/b" || fail "the first $1 losses differ"
}

straight() {
    prepare_run
    expect_exit 0 "done: 56 steps" -- trainer c.ini --gpus 2
    check_equal "the number of skipped steps" "$(n_skipped)" 0
    mv "$work/case" "$work/straight"
}

# A fault that passes: one step less, on both workers alike.
one_step() {
    prepare_run
    run_with nan:rank=1:phase=gradient:step=5 0 "no rank finds it again"
    check_text "$work/stdout" "warning: step 6 leaves the weights as they are"
    check_equal "the number of skipped steps" "$(n_skipped)" 1
    check_same_start 6
    check_text logs/metrics.jsonl '"step":6,'
    metrics check logs/metrics.jsonl >/dev/null
}

# One that comes back when the step is looked into: the windows are those of the worker, in all of its
# micro-batches.
windows_are_named() {
    local named

    prepare_run shuffle=false gradient_accumulation_steps=2
    run_with nan:rank=1:phase=gradient:step=0:times=4 0 \
             "rank 1 finds it again in windows 8, 9, 10, 11 of the training text"
    prepare_run shuffle=true gradient_accumulation_steps=2
    run_with nan:rank=0:phase=gradient:step=0:times=4 0 "rank 0 finds it again in windows "
    named=$(sed -n 's/.*in windows \(.*\) of the training text.*/\1/p' "$work/stdout" | head -n 1)
    check_equal "the number of windows" "$(wc -w <<<"$named")" 4
    check_equal "the number of different windows" \
                "$(tr -d , <<<"$named" | tr ' ' '\n' | sort -u | wc -l)" 4
}

# The checkpoint of the first epoch is at step 28; steps 41 to 45 are bad.
goes_back() {
    prepare_run
    run_with nan:rank=1:phase=gradient:step=40:times=10 0 "done: 56 steps"
    check_text "$work/stdout" "warning: after step 45: back to the weights of step 28 (checkpoints/"
    check_equal "the number of skipped steps" "$(n_skipped)" 5
    check_same_start 40
    check_text "$work/stdout" "1 of at most 3 times"
    [ "$(tensors metadata checkpoints/final_model.safetensors health | grep -c '"updates":39')" -eq 1 ] ||
        fail "$(tensors metadata checkpoints/final_model.safetensors health)"
}

# Before anything is saved, and with what another run left in the folder.
goes_back_to_the_start() {
    prepare_run
    cp -r "$work/straight/checkpoints" .
    run_with nan:rank=0:phase=gradient:step=10:times=10 0 "back to the weights of step 0 (the start"
    check_text "$work/stdout" "which go on with what comes next"
}

# A run that was stopped in the midst of its bad steps and resumed is the run that was not.
resumed() {         # STEPS AFTER WHICH IT STOPS
    prepare_run
    run_with nan:rank=1:phase=gradient:step=40:times=10 0 "back to the weights of step 28"
    mv logs straight_logs
    mv checkpoints straight
    prepare_run
    run_with nan:rank=1:phase=gradient:step=40:times=10 0 "done: $1 steps" \
             --set "training.max_steps=$1" --set evaluation.eval_every=0
    run_with "nan:rank=1:phase=gradient:step=40:times=$(($1 < 45 ? 2 * (45 - $1) : 0))" 0 \
             "done: 56 steps" --resume auto
    check_equal "the number of skipped steps" "$(n_skipped)" 5
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
}

# Stopped in their midst: the good last_checkpoint stays beside what the run goes on from, until there is
# a later one.
stopped_in_bad_steps() {
    prepare_run max_steps=100000 num_epochs=4000 log_every=1 save_every=0 eval_every=0
    OCTET_TEST_FAULT=nan:rank=1:phase=gradient:step=40:times=1000000 \
        in_background trainer c.ini --gpus 2 --set training.max_bad_steps=100000 \
        --set checkpoint.save_minutes=0.000000001
    wait_until has_steps logs/metrics.jsonl 45
    stop_background TERM 143
    check_text "$work/stdout" "saved checkpoints/stopped_in_bad_steps.safetensors (step "
    check_files checkpoints last_checkpoint.safetensors stopped_in_bad_steps.safetensors
    check_equal "the good step" "$(tensors metadata checkpoints/last_checkpoint.safetensors step)" 40
    cp -r checkpoints kept
    run_with nan:rank=0:phase=gradient:step=0:times=1000000 1 "bad steps in a row" --resume auto \
        --set training.max_bad_steps=1 --set training.max_rollbacks=1
    check_text "$work/stdout" "resuming checkpoints/stopped_in_bad_steps.safetensors at step "
    check_text "$work/stdout" "back to the weights of step 40 (checkpoints/last_checkpoint.safetensors)"
    rm -r checkpoints
    mv kept checkpoints
    expect_exit 0 "resuming checkpoints/stopped_in_bad_steps.safetensors at step " -- trainer c.ini \
        --resume auto --gpus 2 --set training.max_steps=200
    check_files checkpoints best_model.safetensors final_model.safetensors last_checkpoint.safetensors
}

# States that lead into the trouble again are not gone back to again; then the run ends, and leaves what
# was saved before.
gives_up() {
    local before

    prepare_run max_steps=200
    run_with nan:rank=0:phase=gradient:step=60:times=1000 1 "5 bad steps in a row, and training.max_rollbacks = 2" \
             --set training.max_rollbacks=2
    check_equal "the number of messages" "$(wc -l <"$work/stderr")" 1
    check_text "$work/stdout" "after step 65: back to the weights of step 56"
    check_text "$work/stdout" "after step 70: back to the weights of step 28"
    check_equal "the number of skipped steps" "$(n_skipped)" 15
    [ ! -e checkpoints/last_checkpoint.safetensors ] || fail "a state in trouble was saved"
    check_whole checkpoints
    expect_exit 0 "done: 60 steps" -- trainer c.ini --gpus 2 --resume auto \
        --set training.max_steps=60
}

# Saves behind bad steps push out no good ones: epochs of a step each, three of which are kept.
keeps_good_saves() {
    tiny_tokens 2000
    tiny_config batch_size=32 num_epochs=20 max_steps=0 eval_every=0 save_every=1
    OCTET_TEST_FAULT=nan:rank=0:phase=gradient:step=10:times=10 \
        expect_exit 0 "after step 15: back to the weights of step 10" -- trainer c.ini
    check_text "$work/stdout" "warning: 5 steps changed no weights"
    check_no_text "$work/stdout" "the last ones among them"
}

# Nor is a model behind bad steps the best one, or a save that was asked for one of them.
best_is_good() {
    prepare_run
    run_with nan:rank=1:phase=gradient:step=25:times=6 0 "the last ones among them" \
        --set training.max_steps=28
    check_equal "the number of skipped steps" "$(n_skipped)" 3
    check_files checkpoints final_model.safetensors
}

at_once() {
    prepare_run
    run_with nan:rank=0:phase=gradient:step=3:times=1000 1 "step 5: 2 bad steps in a row" \
             --set training.max_rollbacks=0 --set training.max_bad_steps=2
    check_text "$work/stderr" "training.max_rollbacks = 0"
}

# No faults here: a learning rate that makes weights grow beyond all numbers.
diverges() {        # WORKERS
    prepare_run learning_rate=10 weight_decay=10 max_grad_norm=0 max_steps=300
    expect_exit 1 "bad steps in a row" -- trainer c.ini --gpus "$1"
    check_text "$work/stdout" "finds it again in windows"
    check_equal "the number of messages" "$(wc -l <"$work/stderr")" 1
    [ "$(metrics values logs/metrics.jsonl lr | wc -l)" -eq \
      "$(sed -n 's/.*step \([0-9]*\): 5 bad.*/\1/p' "$work/stderr")" ] || fail "steps are missing"
}

# Losses that stay where they are, and a limit that many of them exceed.
spikes() {
    prepare_run learning_rate=1e-6
    expect_exit 0 "standard deviations above the mean of" -- trainer c.ini --gpus 2 \
        --set training.spike_sigma=0.5 --set training.spike_window=4 \
        --set training.max_bad_steps=100
    check_text "$work/stdout" "the highest loss is"
    [ "$(n_skipped)" -gt 0 ] || fail "no step was skipped"
    mv checkpoints first
    mv logs first_logs
    expect_exit 0 "done: 20 steps" -- trainer c.ini --gpus 2 --set evaluation.eval_every=0 \
        --set training.spike_sigma=0.5 --set training.spike_window=4 \
        --set training.max_bad_steps=100 --set training.max_steps=20
    expect_exit 0 "done: 56 steps" -- trainer c.ini --gpus 2 --resume auto \
        --set training.spike_sigma=0.5 --set training.spike_window=4 \
        --set training.max_bad_steps=100
    check_tensors checkpoints/final_model.safetensors first/final_model.safetensors 0
}

bad_settings() {
    prepare_run
    expect_bad "training.max_bad_steps" "1" -- trainer c.ini --set training.max_bad_steps=0
    expect_bad "training.max_rollbacks" -- trainer c.ini --set training.max_rollbacks=-1
    expect_bad "training.spike_sigma" -- trainer c.ini --set training.spike_sigma=nan
    expect_bad "training.spike_window" -- trainer c.ini --set training.spike_window=1
}

run_case straight
run_case one_step
run_case windows_are_named
run_case goes_back
run_case goes_back_to_the_start
run_case resumed 43
run_case resumed 50
run_case stopped_in_bad_steps
run_case gives_up
run_case keeps_good_saves
run_case best_is_good
run_case at_once
run_case diverges 1
run_case diverges 2
run_case spikes
run_case bad_settings
finish
