#!/usr/bin/env bash
# disk.sh - a disk that is too small is found before the first step; one that fills up, fails or is used
# by another run costs no checkpoint that was there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

readonly ENOSPC=28 EIO=5 EROFS=30 EDQUOT=122

# Four epochs of 42 steps, of which each saves one file; then best_model and final_model.
epochs() {          # [KEY=VALUE...]
    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=4 eval_every=0 keep_last=0 background="$background" "$@"
}
background=true

# Saved while the steps wait.
in_steps() {        # CASE...
    background=false "$@"
}

# on_disk FREE COMMAND...: with so many bytes free.
on_disk() {
    OCTET_SHIM_FREE=$1 "${@:2}"
}

# failing CALL:ERROR:FIRST-LAST[:BYTES] COMMAND...: this happens to these saves.
failing() {
    OCTET_SHIM_FAULT=$1 "${@:2}"
}

# The number of checkpoints, and their MiB, of a run that is refused with these flags.
needed() {          # FLAG...
    on_disk 1000 expect_exit 2 "of this run need" -- trainer c.ini "$@"
    sed -nE 's/.*: ([0-9]+) checkpoints? of this run needs? ([0-9.]+) MiB, .*/\1 \2/p' "$work/stderr"
}

too_small() {
    epochs save_dir=deep/in/checkpoints
    on_disk 100000 expect_bad "deep/in/checkpoints: 7 checkpoints of this run need" "free some" \
        "save_dir" "keep_last" "--force" -- trainer c.ini
    on_disk 100000 expect_exit 1 "✗ disk: deep/in/checkpoints: 7 checkpoints of this run need" -- \
        trainer c.ini --check
    on_disk 1000000000 expect_exit 0 "✓ disk: 7 checkpoints" -- trainer c.ini --check
    on_disk 100000 expect_exit 0 "going on, with --force" -- trainer c.ini --check --force
    on_disk 100000 expect_exit 0 "done: 168 steps" -- trainer c.ini --force
    check_equal "warnings" "$(grep -c '^warning: ' "$work/stdout")" 1
    check_text "$work/stdout" "warning: deep/in/checkpoints: 7 checkpoints of this run need"
    # Complete: nothing more is saved.
    on_disk 0 expect_exit 0 "the run is complete" -- trainer c.ini --resume auto
}

large_enough() {
    local size bytes=0

    epochs
    expect_exit 0 "done" -- trainer c.ini
    size=$(stat -c %s checkpoints/final_model.safetensors)
    rm -rf checkpoints
    # The estimate has 64 KiB and a little more for the header of each.
    on_disk $((6 * size)) expect_exit 2 "6 checkpoints" -- \
        trainer c.ini --set checkpoint.save_minutes=0
    on_disk $((6 * (size + 90000))) expect_exit 0 "done" -- trainer c.ini --set checkpoint.save_minutes=0
    for file in checkpoints/*; do
        bytes=$((bytes + $(stat -c %s "$file")))
    done
    [ $bytes -le $((6 * size)) ] || fail "the checkpoints have $bytes bytes"
}

what_counts() {
    local all less

    epochs
    all=$(needed)
    check_equal "all epochs" "${all% *}" 7
    less=$(needed --set checkpoint.save_optimizer=false)
    check_equal "without optimizer state" "${less% *}" 7
    awk -v a="${all#* }" -v b="${less#* }" 'BEGIN { exit !(b < 0.7 * a) }' ||
        fail "files without optimizer state need ${less#* } MiB, with it ${all#* }"
    all=$(needed --set checkpoint.keep_last=2)
    check_equal "two of them" "${all% *}" 5
    all=$(needed --set checkpoint.keep_last=2 --set checkpoint.save_minutes=0)
    check_equal "two of them, none by time" "${all% *}" 4
    all=$(needed --set checkpoint.save_every=3)
    check_equal "every third epoch" "${all% *}" 4
    all=$(needed --set checkpoint.save_every=0)
    check_equal "no epochs" "${all% *}" 3
    expect_exit 0 "done" -- trainer c.ini --set checkpoint.keep_last=3
    all=$(needed)
    check_equal "a new run, beside the old" "${all% *}" 7
    all=$(needed --resume auto --set training.num_epochs=6)
    check_equal "two epochs more" "${all% *}" 4
    all=$(needed --resume auto --set training.num_epochs=6 --set checkpoint.keep_last=3)
    check_equal "two epochs more in place of others" "${all% *}" 2
}

# Two saves fail, in every way; those before and after them are there, and the run went to its end.
fails_for_a_while() {       # CALL ERROR [BYTES]
    epochs
    failing "$1:$2:2-3${3:+:$3}" expect_exit 0 "done: 168 steps" -- trainer c.ini
    check_equal "lines on stderr" "$(wc -l <"$work/stderr")" 2
    check_text "$work/stderr" "trainer: not saved: checkpoints/checkpoint_epoch_2.safetensors"
    check_text "$work/stderr" "trainer: not saved: checkpoints/checkpoint_epoch_3.safetensors"
    grep -q "error: not saved" logs/train_*.log || fail "the log does not say so"
    check_whole checkpoints
    check_files checkpoints checkpoint_epoch_{1,4}.safetensors best_model.safetensors \
        final_model.safetensors
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "168 steps, 1 evaluations"
}

# After a failure no save works any more.
fails_for_good() {          # CALL ERROR
    epochs
    expect_exit 0 "done" -- trainer c.ini --set checkpoint.save_dir=straight \
        --set logging.log_dir=straight
    failing "$1:$2:2-1000" expect_exit 1 "final_model.safetensors: " -- trainer c.ini
    check_files checkpoints checkpoint_epoch_1.safetensors
    check_whole checkpoints
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "168 steps, 1 evaluations"
    expect_exit 0 "resuming checkpoints/checkpoint_epoch_1.safetensors" -- trainer c.ini --resume auto
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    check_same_run logs straight
}

# A file that was there before is replaced by a whole one or by none.
replaced_or_kept() {        # CALL ERROR
    local before

    epochs num_epochs=1
    expect_exit 0 "done" -- trainer c.ini
    before=$(fingerprint checkpoints)
    failing "$1:$2:1-1000" expect_exit 1 "cannot" -- \
        trainer c.ini --resume auto --set training.num_epochs=2
    check_equal "the checkpoints" "$(fingerprint checkpoints)" "$before"
}

# Only the final model fails: what was to be it can be gone on from.
final_model_fails() {
    epochs
    failing rename:$EIO:6-6 expect_exit 1 "final_model.safetensors: " -- trainer c.ini
    check_files checkpoints checkpoint_epoch_{1,2,3,4}.safetensors best_model.safetensors \
        last_checkpoint.safetensors
    expect_exit 0 "done: 168 steps" -- trainer c.ini --resume auto
    [ -e checkpoints/final_model.safetensors ] || fail "there is no final model"
}

# At a signal there is no later.
fails_at_signal() {
    epochs num_epochs=2000 save_every=0
    failing pwrite:$ENOSPC:1-1000 in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 5
    stop_background TERM 1
    check_text "$work/stderr" "last_checkpoint.safetensors: cannot write"
    check_equal "the checkpoints" "$(ls -A checkpoints)" ""
}

# last_checkpoint is tried again, and the run goes on in between.
last_is_tried_again() {
    epochs num_epochs=2000 save_every=0
    failing fsync:$EIO:1-2 in_background trainer c.ini \
        --set checkpoint.save_minutes=0.001
    wait_until test -e checkpoints/last_checkpoint.safetensors
    check_equal "lines on stderr" "$(wc -l <"$work/stderr")" 2
    stop_background TERM 143
    check_whole checkpoints
}

# A best model that is not on the disk does not keep a worse one from it.
best_is_tried_again() {
    epochs num_epochs=1 eval_every=1
    failing pwrite:$ENOSPC:1-1:5000 expect_exit 0 "done" -- trainer c.ini
    check_text "$work/stderr" "trainer: not saved: checkpoints/best_model.safetensors"
    [ ! -e checkpoints/best_model.safetensors ] || fail "the best model was saved"
    expect_exit 0 "done: 84 steps" -- \
        trainer c.ini --resume auto --set training.num_epochs=2 --set training.learning_rate=5
    [ -e checkpoints/best_model.safetensors ] || fail "there is no best model"
}

one_run_at_a_time() {
    epochs num_epochs=2000 save_every=0
    in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 5
    timeout "$time_limit" trainer c.ini --set logging.log_dir=other >out.txt 2>err.txt &&
        fail "the second run started"
    check_text err.txt "checkpoints: in use by another run (process $pid)"
    stop_background KILL 137
    expect_exit 0 "done" -- trainer c.ini --set training.num_epochs=1
}

# Somebody removes the folder of a run, or gives its name to another one.
folder_gone() {
    epochs num_epochs=2000 save_every=1
    in_background trainer c.ini
    wait_until test -e checkpoints/checkpoint_epoch_1.safetensors
    rm -r checkpoints
    wait_until test -e checkpoints
    wait_until grep -q "another folder than at the start of this run" "$work/stdout"
    rm -r checkpoints
    stop_background TERM 143
    check_whole checkpoints
    check_text "$work/stdout" "stopped by signal 15"
    expect_exit 0 "resuming checkpoints/last_checkpoint" -- trainer c.ini --resume auto \
        --set training.num_epochs=1
}

# What another run has saved meanwhile stays.
folder_of_another_run() {
    epochs num_epochs=2000 save_every=0
    in_background trainer c.ini
    wait_until has_steps logs/metrics.jsonl 5
    mv checkpoints moved 2>/dev/null || true
    mkdir -p checkpoints
    expect_exit 0 "done: 3 steps" -- trainer c.ini --set training.max_steps=3 \
        --set logging.log_dir=other --set training.num_epochs=1
    stop_background TERM 143
    check_text "$work/stdout" "holds files of an earlier run; they were moved to"
    check_whole checkpoints
    check_equal "the other run's" "$(tensors metadata checkpoints/earlier_*/final_model.safetensors step)" 3
}

file_size_limit() {
    epochs
    (ulimit -f 50 && expect_bad "a checkpoint of this run has" "ulimit -f" -- trainer c.ini)
}

# Another program writes to the token file while it is mapped. The run is held in its first save.
cut_short() {       # BYTES WORKERS
    epochs
    cp tokens.safetensors whole
    expect_exit 0 "done" -- trainer c.ini --gpus "$2" --set checkpoint.save_dir=straight \
        --set logging.log_dir=straight
    held fsync trainer c.ini --gpus "$2"
    truncate -s "$1" tokens.safetensors
    release
    ends_with 1
    check_equal "lines on stderr" "$(wc -l <"$work/stderr")" 1
    check_text "$work/stderr" \
        "tokens.safetensors: was cut short while it was being read, or its disk failed: bring it back as it was"
    check_equal "the saved step" \
        "$(tensors metadata checkpoints/last_checkpoint.safetensors step)" \
        "$(metrics values logs/metrics.jsonl loss | tail -n 1 | cut -d " " -f 1)"
    cp whole tokens.safetensors
    expect_exit 0 "resuming checkpoints/last_checkpoint.safetensors" -- \
        trainer c.ini --gpus "$2" --resume auto
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    check_same_run logs straight
}

shim_disk
run_case too_small
run_case large_enough
run_case what_counts
run_case fails_for_a_while posix_fallocate $ENOSPC
run_case fails_for_a_while pwrite $EDQUOT 5000
run_case fails_for_a_while fsync $EIO
run_case fails_for_a_while rename $EROFS
run_case fails_for_good pwrite $ENOSPC
run_case fails_for_good rename $EROFS
run_case in_steps fails_for_a_while pwrite $EDQUOT 5000
run_case in_steps fails_for_good pwrite $ENOSPC
run_case in_steps last_is_tried_again
run_case in_steps best_is_tried_again
run_case replaced_or_kept pwrite $EDQUOT
run_case replaced_or_kept fsync $EIO
run_case final_model_fails
run_case fails_at_signal
run_case last_is_tried_again
run_case best_is_tried_again
run_case one_run_at_a_time
run_case folder_gone
run_case folder_of_another_run
run_case file_size_limit
run_case cut_short 4096 1
run_case cut_short 4096 2
run_case cut_short 100 1        # the rest of the first page is zeros
finish
