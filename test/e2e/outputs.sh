#!/usr/bin/env bash
# outputs.sh - what the programs leave behind: files, their names and contents, exit codes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# ---- prepare ----

prepare_repeats() {
    tiny_tokens 6000
    mv tokens.safetensors once.safetensors
    tiny_tokens 6000 --repeat 3
    check_equal "the list" "$(tensors list tokens.safetensors | tr '\n' ' ')" \
                "train U8 16200 val U8 600 "
    tensors values once.safetensors train >train
    tensors values tokens.safetensors train >repeated
    cat train train train | cmp -s - repeated || fail "train is not repeated three times"
    tensors values tokens.safetensors val >val
    cat train val | awk '{ printf "%c", $1 }' | cmp -s - text.txt || fail "the text is not whole"
}

prepare_reads_pipe() {
    tiny_tokens 6000
    expect_exit 0 "standard input (6000 bytes)" -- \
        prepare --custom-text - --output piped.safetensors <text.txt
    check_tensors piped.safetensors tokens.safetensors 0
}

prepare_characters() {
    printf 'häß→𝄞 häß→𝄞\n' >text.txt
    expect_exit 0 "vocabulary  7 characters" -- prepare --custom-text text.txt --tokenizer char \
        --output tokens.safetensors --train-split 1
    check_equal "the tokens" "$(tensors values tokens.safetensors train | tr '\n' ' ')" \
                "2 4 3 5 6 1 2 4 3 5 6 0 "
    check_equal "the tokenizer" "$(tensors metadata tokens.safetensors tokenizer)" \
                '{"type":"char","vocab_size":7,"characters":"\n hßä→𝄞"}'
}

prepare_windows() {
    tiny_tokens 6000 --split windows --repeat 2
    check_text "$work/stdout" "validation measures memory of this text"
    check_equal "tokens in all" \
        "$(tensors list tokens.safetensors | awk '{ sum += $3 } END { print sum }')" 12000
}

# A signal while it waits for its input: the older file stays, and nothing else is left.
prepare_stopped() {
    local before

    tiny_tokens 6000
    mkfifo pipe
    before=$(fingerprint .)
    in_background prepare --custom-text pipe --output tokens.safetensors
    exec 9>pipe
    head -c 100 text.txt >&9
    stop_background TERM 143
    exec 9>&-
    check_equal "the folder" "$(fingerprint .)" "$before"
}

# ---- trainer ----

epochs() {          # KEY=VALUE...: four of 42 steps
    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=4 "$@"
}

names() {
    epochs keep_last=2 generate_samples=true
    expect_exit 0 "done: 168 steps" -- trainer c.ini
    check_files . c.ini checkpoints logs text.txt tokens.safetensors
    check_files checkpoints best_model.safetensors final_model.safetensors \
        checkpoint_epoch_3.safetensors checkpoint_epoch_4.safetensors
    check_files logs metrics.jsonl tensorboard "$(cd logs && echo train_????????-??????.log)"
    check_equal "the event files" "$(find logs/tensorboard -type f -size +1k | wc -l)" 1
    check_whole checkpoints
    check_equal "the format" "$(tensors metadata checkpoints/best_model.safetensors format)" \
                "octet-checkpoint-1"
}

kept_checkpoints() {
    epochs keep_last=0 save_every=1
    expect_exit 0 "done" -- trainer c.ini
    check_equal "epoch checkpoints" "$(find checkpoints -name 'checkpoint_epoch_*' | wc -l)" 4
    epochs keep_last=3 save_every=2 "save_dir=every_two"
    expect_exit 0 "done" -- trainer c.ini
    check_files every_two best_model.safetensors final_model.safetensors \
        checkpoint_epoch_2.safetensors checkpoint_epoch_4.safetensors
    epochs save_every=0 "save_dir=none" eval_every=0
    expect_exit 0 "done" -- trainer c.ini
    check_files none best_model.safetensors final_model.safetensors
}

metrics_rows() {
    epochs
    expect_exit 0 "done: 168 steps" -- trainer c.ini
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "168 steps, 4 evaluations"
    check_equal "evaluated steps" \
        "$(metrics values logs/metrics.jsonl val_loss | cut -d ' ' -f 1 | tr '\n' ' ')" \
        "42 84 126 168 "
    check_equal "tokens" "$(metrics values logs/metrics.jsonl tokens | tail -n 1)" \
        "168 $((168 * 4 * 32))"
    check_equal "epochs" "$(metrics values logs/metrics.jsonl epoch | sed -n '42p;43p' |
        tr '\n' ' ')" "42 1 43 2 "
    check_equal "the best loss" \
        "$(tensors metadata checkpoints/final_model.safetensors best_loss | cut -c -7)" \
        "$(metrics values logs/metrics.jsonl val_loss | cut -d ' ' -f 2 | sort -g | head -n 1 |
           cut -c -7)"
}

samples() {
    local log

    epochs num_epochs=2 generate_samples=true num_samples=2
    expect_exit 0 "sample 2 after step 84:" -- trainer c.ini
    log=$(echo logs/train_*.log)
    check_text "$log" "sample 1 after step 42:"
    check_text "$log" "sample 2 after step 84:"
    check_text "$log" "max_seq_len = 32"
    grep -qaF samples/2 logs/tensorboard/* || fail "no samples for TensorBoard"
    grep -qaF val/loss logs/tensorboard/* || fail "no validation loss for TensorBoard"
}

no_extras() {
    epochs num_epochs=1
    expect_exit 0 "done" -- trainer c.ini --set logging.use_tensorboard=false
    [ ! -e logs/tensorboard ] || fail "there is a folder for TensorBoard"
    check_no_text "$work/stdout" "sample 1"
}

# The first step's learning rate is zero, so these runs evaluate the same weights. The number of
# right guesses is the same only if each window counts once.
evaluation() {
    local workers

    epochs
    expect_exit 0 "done" -- trainer c.ini
    mv checkpoints/final_model.safetensors weights.safetensors
    for workers in 1 2 3 5; do
        tiny_config max_steps=1 batch_size=5 "log_dir=l$workers" "save_dir=c$workers"
        expect_exit 0 "done: 1 step" -- \
            trainer c.ini --init weights.safetensors --gpus $workers
        metrics values l$workers/metrics.jsonl val_loss >loss$workers
        metrics values l$workers/metrics.jsonl val_accuracy >accuracy$workers
        check_near "the loss of $workers workers" loss$workers loss1 rel 1e-6
        cmp -s accuracy$workers accuracy1 || fail "the accuracy of $workers workers differs"
    done
    expect_exit 0 "done: 1 step" -- \
        trainer c.ini --init weights.safetensors --set training.batch_size=1
    metrics values l5/metrics.jsonl val_accuracy | cmp -s - accuracy1 ||
        fail "the accuracy of batches of 1 differs"
}

limited_evaluation() {
    local workers

    tiny_tokens 6000
    for workers in 1 2 3; do
        tiny_config max_steps=1 "log_dir=l$workers" "save_dir=c$workers"
        expect_exit 0 "done" -- trainer c.ini --gpus $workers --set evaluation.eval_steps=2
        metrics values l$workers/metrics.jsonl val_accuracy >accuracy$workers
        cmp -s accuracy$workers accuracy1 || fail "the accuracy of $workers workers differs"
    done
    expect_exit 0 "done" -- trainer c.ini --set evaluation.eval_steps=0
    ! metrics values l3/metrics.jsonl val_accuracy | cmp -s - accuracy1 ||
        fail "eval_steps = 2 evaluates everything"
}

no_validation() {
    tiny_tokens 6000 --train-split 1
    tiny_config
    expect_exit 0 "notice: no validation: it needs at least 33 tokens" -- trainer c.ini
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "20 steps, 0 evaluations"
    check_files checkpoints final_model.safetensors
}

repeatable() {
    epochs num_epochs=1 dropout=0.2
    expect_exit 0 "done" -- trainer c.ini
    expect_exit 0 "done" -- trainer c.ini --set checkpoint.save_dir=again
    check_tensors again/final_model.safetensors checkpoints/final_model.safetensors 0
    expect_exit 0 "done" -- trainer c.ini --set checkpoint.save_dir=other --set run.seed=43
    ! tensors compare other/final_model.safetensors checkpoints/final_model.safetensors 1e-3 \
        2>/dev/null || fail "another seed gives the same weights"
}

# With a learning rate of next to nothing, the losses of an epoch tell the order of its windows: in
# any order they have the same mean, because each window comes once.
order() {
    local other

    epochs num_epochs=2 learning_rate=1e-12
    expect_exit 0 "done: 84 steps" -- trainer c.ini
    expect_exit 0 "done: 84 steps" -- \
        trainer c.ini --set data.shuffle=false --set logging.log_dir=fixed
    losses logs 1 42 shuffled1
    losses logs 43 84 shuffled2
    losses fixed 1 42 fixed1
    losses fixed 43 84 fixed2
    check_near "the fixed order" fixed2 fixed1 abs 1e-5
    for other in shuffled1 shuffled2; do
        differs fixed1 $other 0.001 || fail "$other is in the order of the text"
        check_near "the mean loss of $other" $other.mean fixed1.mean abs 1e-5
    done
    differs shuffled1 shuffled2 0.001 || fail "both epochs have the same order"
}

losses() {          # FOLDER FIRST LAST NAME: into the files NAME and NAME.mean
    metrics values "$1/metrics.jsonl" loss | within "$2" "$3" | cut -d " " -f 2 >"$4"
    awk '{ sum += $1 } END { printf "%.7f\n", sum / NR }' "$4" >"$4.mean"
}

differs() {         # FILE FILE DIFFERENCE: in most lines by at least so much
    paste "$1" "$2" | awk -v least="$3" '
        $1 - $2 >= least || $2 - $1 >= least { n++ }
        END { exit !(n > NR / 2) }'
}

# Each new run moves what it finds out of its way.
earlier_runs() {
    local first seed

    epochs num_epochs=1
    expect_exit 0 "done" -- trainer c.ini
    first=$(cd checkpoints && sha256sum -- *)
    cp logs/metrics.jsonl first.jsonl
    expect_exit 0 "notice: checkpoints holds files of an earlier run; they were moved to" -- \
        trainer c.ini --set run.seed=43
    check_equal "the first run" "$(cd checkpoints/earlier_* && sha256sum -- *)" "$first"
    cmp -s first.jsonl logs/metrics_*.jsonl || fail "the first run's metrics.jsonl is not kept"
    check_equal "the event files" "$(find logs/tensorboard -type f | wc -l)" 2
    for seed in 1 2 3 4; do     # in the same second, some of them
        expect_exit 0 "were moved to" -- \
            trainer c.ini --set "run.seed=$seed" --set training.max_steps=1
    done
    check_equal "the runs kept" "$(find checkpoints -name "final_model.*" | wc -l)" 6
    check_equal "the metrics kept" "$(find logs -name "metrics*.jsonl" | wc -l)" 6
}

reader_gone() {
    epochs num_epochs=1
    timeout "$time_limit" trainer c.ini --set logging.log_every=1 2>"$work/stderr" | head -n 1 >line
    check_text line "model:"
    check_equal "the run" "$(metrics check logs/metrics.jsonl)" "42 steps, 1 evaluations"
    check_whole checkpoints
}

# ---- --check and other flags ----

check_set_up() {
    epochs
    expect_exit 0 "ready to train" -- trainer c.ini --check
    check_equal "ticks" "$(grep -c '^✓' "$work/stdout")" 6
    check_no_text "$work/stdout" "✗"
    [ ! -e checkpoints/final_model.safetensors ] || fail "it trained"
    tensors flip tokens.safetensors -1
    expect_exit 1 "not ready" -- trainer c.ini --check
    check_equal "crosses" "$(grep -c '^✗' "$work/stdout")" 1
    check_equal "ticks" "$(grep -c '^✓' "$work/stdout")" 1
    epochs batch_size=200
    expect_exit 1 "not ready" -- trainer c.ini --check
    check_equal "crosses" "$(grep -c '^✗' "$work/stdout")" 1
}

help_and_version() {
    local program

    for program in prepare trainer sample; do
        [ -x "$(command -v $program)" ] || continue
        expect_exit 0 "usage: $program" -- $program --help
        [ ! -s "$work/stderr" ] || fail "--help writes to stderr"
        awk 'length > 100 { exit 1 }' "$work/stdout" || fail "--help has a line over 100 columns"
        expect_exit 0 "$program " -- $program --version
        check_equal "lines of --version" "$(wc -l <"$work/stdout")" 1
    done
}

# The printed table, the defaults and config/default.ini say the same.
print_options() {
    local key value

    expect_exit 0 "| " -- trainer --print-options
    cp "$work/stdout" table
    while read -r key value; do
        grep -qE "^\|[^|]*\b$key\b[^|]*\|.*$(printf '%s' "$value" | sed 's/[.]/[.]/g')" table ||
            fail "the table has no $key with the default $value"
    done < <(sed -n 's/^\([a-z_0-9]*\) = \([^ ]*\).*/\1 \2/p' "$here/../../config/default.ini")
}

# ---- full disks ----

full_disk() {
    epochs keep_last=0 save_dir=disk/checkpoints num_epochs=6
    in_disk 1100k
    expect_exit 2 "disk/checkpoints: 9 checkpoints of this run need" -- trainer c.ini
    expect_exit 1 "trainer: not saved: disk/checkpoints/" -- trainer c.ini --force
    check_text "$work/stderr" "final_model.safetensors: cannot reserve"
    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "252 steps, 6 evaluations"
    check_whole disk/checkpoints
    check_files disk/checkpoints best_model.safetensors checkpoint_epoch_1.safetensors \
        checkpoint_epoch_2.safetensors
    expect_exit 1 "✗ disk: disk/checkpoints: 9 checkpoints" -- trainer c.ini --check
    rm disk/checkpoints/checkpoint_epoch_1.safetensors
    expect_exit 0 "resuming disk/checkpoints/" -- \
        trainer c.ini --resume auto --set checkpoint.save_every=0 --set checkpoint.save_minutes=0
    check_whole disk/checkpoints
}

full_log_disk() {
    epochs log_dir=disk/logs num_epochs=1
    in_disk 12k
    expect_exit 0 "records are lost" -- trainer c.ini
    check_whole checkpoints
}

full_disk_prepare() {
    in_disk 64k
    seq 20000 >numbers
    expect_exit 1 "cannot reserve" -- prepare --custom-text numbers --output disk/tokens.safetensors
    check_equal "what is in the folder" "$(ls -A disk)" ""
}

# Mount a small file system on disk/, which ends with the case.
in_disk() {         # SIZE
    mkdir disk
    mount -t tmpfs -o "size=$1" tmpfs disk
    trap 'umount -l "$work/case/disk"' EXIT
}

can_mount() {
    mkdir "$work/mount" &&
        mount -t tmpfs -o size=64k tmpfs "$work/mount" 2>/dev/null && umount "$work/mount"
}

for name in prepare_repeats prepare_reads_pipe prepare_characters prepare_windows prepare_stopped \
            names kept_checkpoints metrics_rows samples no_extras evaluation limited_evaluation \
            no_validation repeatable order earlier_runs reader_gone check_set_up help_and_version \
            print_options; do
    run_case $name
done
full_disk_cases="full_disk full_log_disk full_disk_prepare"
if can_mount; then
    for name in $full_disk_cases; do
        run_case $name
    done
else
    skip_case "$full_disk_cases" "mounting a small file system needs root"
fi
finish
