#!/usr/bin/env bash
# kills.sh - a run that is killed again and again at random moments and resumed each time, against the
# same run left alone.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bench/kills.sh BUILD_FOLDER [--times N] [--signal KILL|TERM] [--change-workers] [--seed S]

A small run of its own, in a temporary folder, with dropout, accumulation, evaluations, samples and
saves by epoch and by time, is killed N times (200 unless given) at random moments of all it does, and
goes on with --resume auto each time. Then it must be the run that was left alone: the same rows in
metrics.jsonl, the same bytes in final_model and best_model.

  --signal          how it is killed: KILL (the default) loses the steps since the last save, TERM none
  --change-workers  1, 2 and 4 workers in turn, not always 2; then all losses are within 1e-5
  --seed S          of the moments (1 unless given)

Prints a row of the table in bench/results/kills.md. Exit code 1 if the run is another one.
TEXT
}

times=200 signal=KILL change_workers=false seed=1 build=
while [ $# -gt 0 ]; do
    case $1 in
    --times | --signal | --seed)
        [ $# -gt 1 ] || { usage >&2; exit 2; }
        declare "${1#--}=$2"
        shift ;;
    --change-workers) change_workers=true ;;
    --help) usage; exit ;;
    *) build=$1 ;;
    esac
    shift
done
if ! [[ -x $build/trainer && $times =~ ^[1-9][0-9]{0,4}$ && $signal =~ ^(KILL|TERM)$ &&
        $seed =~ ^[0-9]{1,9}$ ]]; then
    usage >&2
    exit 2
fi
. "$(dirname "$0")/../test/e2e/lib.sh" "$build"
time_limit=900

# So many for each kill, and enough behind the last.
readonly steps_per_kill=60 epoch_steps=31
epochs=$(((times + times / 13 + 15) * steps_per_kill / epoch_steps))
total=$((epochs * epoch_steps))

# Eight windows in a step, evaluations as long as some steps. Other numbers of workers sum in another
# order; at a learning rate of 3e-4 such rounding has grown to 1e-5 after 12,000 steps.
prepare_run() {         # WORKERS
    tiny_tokens 24000 --train-split 0.34
    tiny_config dim=64 mlp_dim=256 dropout=0.1 "batch_size=$((4 / $1))" max_steps=0 \
        gradient_accumulation_steps=2 "num_epochs=$epochs" learning_rate=1e-4 log_every=1 \
        generate_samples=true num_samples=2 sample_length=200
}

# What the run that is stopped is at, from what it has left so far.
phase() {
    local last

    last=$(sed -nE '/^(step|sample|saved) /p' "$work/stdout" | tail -n 1)
    if compgen -G 'checkpoints/*.tmp.*' >/dev/null; then
        echo save
    elif [ -z "$last" ]; then
        echo start
    elif [[ $last == *"val loss"* || $last == sample* ]]; then
        echo samples
    elif [[ $last =~ ^step\ +([0-9]+)/ ]] && ((BASH_REMATCH[1] % epoch_steps == 0)); then
        echo evaluation
    else
        echo step
    fi
}

# kill_once NUMBER: a run, for $longest microseconds or less. It has $done steps afterwards.
kill_once() {
    local status=0 resumed last=$done at n=${workers[0]} moment=$((longest * RANDOM / 32768))

    # The batch of a run that begins is one for the first number of workers.
    ! compgen -G 'checkpoints/*.safetensors' >/dev/null || n=${workers[$1 % ${#workers[@]}]}
    in_background trainer c.ini --resume auto --gpus "$n" --set checkpoint.save_minutes=0.001
    sleep "$(printf '%d.%06d' $((moment / 1000000)) $((moment % 1000000)))"
    kill -s STOP "$pid" || fail "kill $1: the run was over: $(tail -n 1 "$work/stderr")"
    at=$(phase)
    kill -s "$signal" "$pid"
    kill -s CONT "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || status=$?
    [ $status -eq $((128 + $(kill -l "$signal"))) ] ||
        fail "kill $1, behind step $last: exit code $status: $(tail -n 1 "$work/stderr")"
    [ ! -s "$work/stderr" ] || fail "kill $1: the run said: $(tail -n 1 "$work/stderr")"
    check_no_text "$work/stdout" "warning: "
    check_whole checkpoints

    # Killed before it says what it resumes, it has changed nothing.
    resumed=$(sed -nE 's/^resuming .* at step ([0-9]+)$/\1/p; s/^notice: nothing to resume.*/0/p' \
                  "$work/stdout")
    if [ -n "$resumed" ]; then
        [ "$signal" = KILL ] || check_equal "kill $1: the step resumed" "$resumed" "$last"
        n_lost=$((n_lost + last - resumed))
        done=$(sed -nE 's|^step +([0-9]+)/.*|\1|p' "$work/stdout" | tail -n 1)
        done=${done:-$resumed}
    fi
    n_killed[$at]=$((n_killed[$at] + 1))
}

# The largest difference between the numbers of two files, line by line.
largest_difference() {
    paste "$1" "$2" | awk '
        { difference = $2 > $4 ? $2 - $4 : $4 - $2; if (difference > largest) largest = difference }
        END { print largest + 0 }'
}

compare() {
    local key

    check_equal "metrics" "$(metrics check logs/metrics.jsonl)" "$total steps, $epochs evaluations"
    if ! $change_workers; then
        check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
        check_tensors checkpoints/best_model.safetensors straight/best_model.safetensors 0
        check_same_run logs straight
        result="the same bytes"
        return
    fi
    result="losses within"
    for key in loss val_loss; do
        metrics values logs/metrics.jsonl $key >a
        metrics values straight/metrics.jsonl $key >b
        check_near $key a b abs 1e-5
        result+=" $(largest_difference a b)"
    done
}

kills() {
    local i longest=200000 most=2000000 done=0 n_lost=0 result workers=(2) start=$SECONDS
    local -A n_killed=([start]=0 [step]=0 [evaluation]=0 [samples]=0 [save]=0)

    ! $change_workers || workers=(1 2 4)
    RANDOM=$seed
    prepare_run "${workers[0]}"
    expect_exit 0 "done: $total steps" -- trainer c.ini --gpus "${workers[0]}" \
        --set checkpoint.save_dir=straight --set logging.log_dir=straight
    for ((i = 0; i < times; i++)); do
        kill_once $i
        # However fast the machine is, the kills are spread over the whole run.
        if ((done > steps_per_kill * (i + 1))); then
            longest=$((longest * 2 / 3))
        else
            longest=$((longest < most ? longest * 5 / 4 : most))
        fi
    done
    expect_exit 0 "done: $total steps" -- trainer c.ini --resume auto --gpus "${workers[0]}"
    compare
    printf '| %s | %s | %d: %d, %d, %d, %d, %d | %d of %d | %d | %s | %d s |\n' \
        "$signal" "$(IFS=,; echo "${workers[*]}")" "$times" "${n_killed[start]}" "${n_killed[step]}" \
        "${n_killed[evaluation]}" "${n_killed[samples]}" "${n_killed[save]}" "$done" "$total" \
        "$n_lost" "$result" $((SECONDS - start))
}

run_case kills
finish
