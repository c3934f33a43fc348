#!/usr/bin/env bash
# threads.sh - everything in which the workers meet, in a short run: steps, evaluation, samples, saves,
# a stop and a resume. It is for builds with ThreadSanitizer, whose report would end the program.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

export TSAN_OPTIONS="halt_on_error=1 exitcode=66"

workers_meet() {    # WORKERS
    tiny_tokens 3000
    tiny_config batch_size=2 gradient_accumulation_steps=2 max_steps=0 num_epochs=3 dropout=0.1 \
        generate_samples=true save_every=1
    expect_exit 0 "done" -- trainer c.ini --gpus "$1"
    [ -e checkpoints/checkpoint_epoch_3.safetensors ] || fail "epoch 3 was not saved"
}

stopped_and_resumed() {
    tiny_tokens 3000
    tiny_config batch_size=2 max_steps=0 num_epochs=500 save_every=10
    in_background trainer c.ini --gpus 2 --set checkpoint.save_minutes=0.0005
    wait_until has_steps logs/metrics.jsonl 10
    kill -s USR1 "$pid"
    wait_until has_steps logs/metrics.jsonl 40
    stop_background TERM 143
    expect_exit 0 "resuming" -- trainer c.ini --gpus 2 --resume auto \
        --set training.max_steps="$(($(wc -l <logs/metrics.jsonl) + 10))"
}

run_case workers_meet 1
run_case workers_meet 2
run_case workers_meet 5
run_case stopped_and_resumed
finish
