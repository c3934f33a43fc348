#!/usr/bin/env bash
# signals.sh - whatever a run is doing when a signal comes: SIGUSR1 saves and costs nothing, one that
# ends the run saves first, and a second one ends it at once.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Epochs of 42 steps; nothing is saved in between unless a case says so.
epochs() {          # [KEY=VALUE...]
    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=4 eval_every=0 save_every=0 "$@"
}

# Long evaluations: twenty times as much text as there is to learn from.
long_evaluation() {     # [KEY=VALUE...]
    epochs eval_every=1 "$@"
    tiny_tokens 120000 --train-split 0.045
}

send() {            # SIGNAL
    kill -s "$1" "$pid" || fail "the run ended before SIG$1: $(tail -n 1 "$work/stderr")"
}

is_delivered() {    # no signal waits for the process
    ! grep -qE '^(Shd|Sig)Pnd:.*[1-9a-f]' "/proc/$pid/status"
}

# A second signal while the first is still to be delivered would be one and the same.
send_and_see() {    # SIGNAL
    send "$1"
    wait_until is_delivered
}

last_step() {
    tensors metadata checkpoints/last_checkpoint.safetensors step
}

goes_on_to_the_end() {      # STEPS EVALUATIONS
    ends_with 0
    check_text "$work/stdout" "saved checkpoints/last_checkpoint.safetensors"
    check_text "$work/stdout" "done: $1 steps"
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "$1 steps, $2 evaluations"
    check_whole checkpoints
}

has_evaluated() {
    grep -q val_loss logs/metrics.jsonl
}

# The bits of HUP, INT, USR1 and TERM among those that a thread blocks.
blocks() {          # BITS THREAD
    local mask

    mask=$(sed -n 's/^SigBlk:[[:space:]]*//p' "/proc/$pid/task/$2/status")
    [ $((0x$mask & 0x4203)) -eq $(($1)) ] || fail "thread $2 blocks the signals 0x$mask"
}

# A handler on a thread that computes would write its frame where oneDNN has its stack: on the heap.
only_main_takes_signals() {   # WORKERS
    local thread n=0

    epochs num_epochs=2000
    in_background trainer c.ini --gpus "$1"
    wait_until has_steps logs/metrics.jsonl 5
    for thread in $(ls "/proc/$pid/task"); do
        n=$((n + 1))
        [ "$thread" = "$pid" ] || blocks 0x4203 "$thread"
    done
    blocks 0 "$pid"
    [ $n -ge $((2 + $1)) ] || fail "there are only $n threads"
    stop_background TERM 143
}

# ---- a save on request ----

save_in_start_up() {
    epochs
    held statvfs trainer c.ini
    send USR1
    release
    goes_on_to_the_end 168 1
    check_equal "the saved step" "$(last_step)" 1
}

# However many there are, the run is the one without them.
save_at_steps() {   # WORKERS
    local i

    epochs num_epochs=8 "batch_size=$((4 / $1))"
    expect_exit 0 "done" -- trainer c.ini --gpus "$1" --set checkpoint.save_dir=straight \
        --set logging.log_dir=straight
    in_background trainer c.ini --gpus "$1"
    wait_until has_steps logs/metrics.jsonl 5
    for ((i = 0; i < 10; i++)); do
        kill -s USR1 "$pid" 2>/dev/null || break
        sleep 0.01
    done
    goes_on_to_the_end 336 1
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    check_same_run logs straight
}

save_in_evaluation() {
    long_evaluation num_epochs=2
    in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 42
    send USR1
    goes_on_to_the_end 84 2
}

save_in_last_evaluation() {
    long_evaluation num_epochs=1 eval_every=0
    in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 42
    send USR1
    goes_on_to_the_end 42 1
    check_equal "the saved step" "$(last_step)" 42
}

save_in_sampling() {
    epochs num_epochs=2 eval_every=1 generate_samples=true sample_length=5000
    in_background trainer c.ini
    wait_until has_evaluated
    send USR1
    goes_on_to_the_end 84 2
}

save_in_save() {
    epochs save_every=1 background=false
    held pwrite trainer c.ini
    send USR1
    release
    goes_on_to_the_end 168 1
    check_equal "the saved step" "$(last_step)" 42
}

save_beside_save() {
    epochs save_every=1
    held pwrite trainer c.ini
    wait_until has_steps logs/metrics.jsonl 50
    send USR1
    release
    goes_on_to_the_end 168 1
    [ "$(last_step)" -ge 50 ] || fail "the saved step is $(last_step)"
}

# ---- the end ----

end_in_start_up() { # SIGNAL NUMBER
    epochs
    held statvfs trainer c.ini
    stop_background "$1" $((128 + $2))
    check_text "$work/stdout" "stopped by signal $2 before the first step"
    [ ! -e checkpoints ] || fail "there are checkpoints"
    release
    expect_exit 0 "done: 168 steps" -- trainer c.ini
}

# In the middle of its save, after a signal during steps, or during an evaluation: at once, and what
# there was before stays.
second_in_save() {  # FIRST SECOND CODE
    local before

    epochs num_epochs=1
    expect_exit 0 "done" -- trainer c.ini
    before=$(fingerprint checkpoints)
    to_be_held pwrite trainer c.ini --resume auto --set training.num_epochs=2000
    wait_until has_steps logs/metrics.jsonl 60
    send_and_see "$1"
    wait_until test -e hold.held
    stop_background "$2" "$3"
    check_no_text "$work/stdout" "stopped by"
    release
    rm -f checkpoints/*.tmp.*
    check_equal "the checkpoints" "$(fingerprint checkpoints)" "$before"
    expect_exit 0 "done: 84 steps" -- trainer c.ini --resume auto --set training.num_epochs=2
}

# While a save of before goes on beside the steps.
second_beside_save() {
    epochs save_every=1
    held pwrite trainer c.ini
    send_and_see TERM
    stop_background TERM 143
    check_no_text "$work/stdout" "stopped by"
}

second_after_evaluation() {
    long_evaluation num_epochs=2000
    to_be_held pwrite trainer c.ini
    wait_until has_steps logs/metrics.jsonl 42
    send_and_see TERM
    wait_until test -e hold.held
    stop_background TERM 143
    check_no_text "$work/stdout" "stopped by"
}

# The sample would take hours.
second_in_sampling() {
    epochs num_epochs=1 generate_samples=true sample_length=1000000
    in_background trainer c.ini
    wait_until test -e checkpoints/best_model.safetensors
    sleep 0.5
    send_and_see TERM
    stop_background TERM 143
    check_no_text "$work/stdout" "stopped by"
    check_files checkpoints best_model.safetensors
}

# The first one, during a save: it is finished, and the end saves again.
first_in_save() {       # BACKGROUND
    epochs save_every=1 background="$1"
    held pwrite trainer c.ini
    send_and_see TERM
    release
    ends_with 143
    check_text "$work/stdout" "stopped by signal 15 after step"
    if [ "$1" = false ]; then
        check_files checkpoints checkpoint_epoch_1.safetensors last_checkpoint.safetensors
        check_equal "the saved step" "$(last_step)" 42
    fi
    check_whole checkpoints
    expect_exit 0 "done: 168 steps" -- trainer c.ini --resume auto
}

# Of samples that are not written yet, the rest is left out.
first_in_sampling() {
    epochs num_epochs=2 eval_every=1 generate_samples=true num_samples=1000 sample_length=1000
    in_background trainer c.ini
    wait_until grep -q "^sample 1 " "$work/stdout"
    send TERM
    ends_with 143
    check_text "$work/stdout" "stopped by signal 15 after step 42"
    check_no_text "$work/stdout" "sample 1000 "
}

# A terminal that closes may say so twice.
# Nobody reads: what the run says is left out, and nothing else.
stuck_output() {    # WORKERS
    local status=0

    epochs num_epochs=2000 log_every=1 save_every=0
    mkfifo pipe
    exec 8<>pipe
    env --default-signal=HUP trainer c.ini --gpus "$1" --set distributed.watchdog=5 \
        >pipe 2>"$work/stderr" 8>&- & pid=$!
    wait_until has_steps logs/metrics.jsonl 2000
    send USR1
    wait_until test -e checkpoints/last_checkpoint.safetensors
    send TERM
    ends_with 143
    check_equal "lines on stderr" "$(wc -l <"$work/stderr")" 0
    grep -q "stopped by signal 15" logs/train_*.log || fail "the log file does not say why"
    exec 8>&-
}

hang_up_echo() {
    epochs num_epochs=2000
    in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 5
    kill -s HUP "$pid"
    kill -s HUP "$pid" 2>/dev/null || true
    ends_with 129
    check_text "$work/stdout" "stopped by signal 1 after step"
    check_whole checkpoints
}

without_hang_up() {
    local steps

    epochs num_epochs=2000
    in_background nohup trainer c.ini
    wait_until has_steps logs/metrics.jsonl 5
    send HUP
    steps=$(wc -l <logs/metrics.jsonl)
    wait_until has_steps logs/metrics.jsonl $((steps + 50))
    stop_background TERM 143
    check_text "$work/stdout" "stopped by signal 15"
}

shim_disk
run_case only_main_takes_signals 1
run_case only_main_takes_signals 2
run_case save_in_start_up
run_case save_at_steps 1
run_case save_at_steps 2
run_case save_in_evaluation
run_case save_in_last_evaluation
run_case save_in_sampling
run_case save_in_save
run_case save_beside_save
run_case end_in_start_up TERM 15
run_case end_in_start_up INT 2
run_case second_in_save TERM TERM 143
run_case second_in_save TERM INT 130
run_case second_beside_save
run_case second_after_evaluation
run_case second_in_sampling
run_case first_in_save false
run_case first_in_save true
run_case first_in_sampling
run_case stuck_output 1
run_case stuck_output 2
run_case hang_up_echo
run_case without_hang_up
finish
