#!/usr/bin/env bash
# soak.sh - a long run of the tiny model: do its memory, open files and threads stay what they were?
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bench/soak.sh BUILD_FOLDER [--steps N] [--workers N]

N steps (20,000 unless given) of config/tiny.ini's model on 2 workers, two windows of 64 tokens in each,
with TensorBoard, an evaluation, samples and a checkpoint every 126 steps, and a save by time every 2
seconds. Looks at the process five times a second, and prints for each tenth of the run behind step
1,000 what it saw. Exit code 1 if the last tenth has grown over the first:

  threads, open files   the fewest seen at once, at all: more of them come and go with a save
  resident memory       the most, by 1 MiB, as the allocator keeps freed blocks here today and there
                        tomorrow; in 20,000 steps that is a leak of 60 bytes in each
TEXT
}

steps=20000 workers=2 build=
while [ $# -gt 0 ]; do
    case $1 in
    --steps | --workers)
        [ $# -gt 1 ] || { usage >&2; exit 2; }
        declare "${1#--}=$2"
        shift ;;
    --help) usage; exit ;;
    *) build=$1 ;;
    esac
    shift
done
if ! [[ -x $build/trainer && $steps =~ ^[1-9][0-9]{3,7}$ && $workers =~ ^[1-9][0-9]?$ ]]; then
    usage >&2
    exit 2
fi
. "$(dirname "$0")/../test/e2e/lib.sh" "$build"

readonly memory_noise=1024      # KiB

# 16,200 bytes to train on are 253 windows of 64: an epoch is 63 steps of four.
prepare_run() {
    head -c 18000 "$here/../../datasets/sample.txt" >text.txt
    run prepare --custom-text text.txt --output tokens.safetensors
    cp "$here/../../config/tiny.ini" c.ini
    settings=(data.dataset_path=tokens.safetensors model.max_seq_len=64 training.batch_size=2
        training.use_amp=false "training.max_steps=$steps" evaluation.eval_every=2
        evaluation.generate_samples=true evaluation.sample_length=32 checkpoint.save_every=2
        checkpoint.save_minutes=0.033 checkpoint.save_dir=checkpoints logging.log_dir=logs
        logging.log_every=100)
}

# A line of what the process has now: step, threads, open files, those of them in logs, KiB of memory.
look() {
    local step=0 links

    [ ! -s logs/metrics.jsonl ] || step=$(tail -n 1 logs/metrics.jsonl | sed 's/^{"step":\([0-9]*\).*/\1/')
    links=$(find "/proc/$pid/fd" -type l -printf '%l\n')
    awk -v step="$step" -v files="$(wc -l <<<"$links")" -v logs="$(grep -c "$PWD/logs/" <<<"$links")" '
        $1 == "Threads:" { threads = $2 }
        $1 == "VmRSS:" { memory = $2 }
        END { print step, threads, files, logs, memory }' "/proc/$pid/status"
}

# A row for each tenth of the steps behind the first 1,000; does the last equal the first?
report() {
    awk -v total="$steps" -v noise=$memory_noise '
        function least(a, b) { return a == "" || b < a ? b : a }
        function most(a, b) { return b > a ? b : a }
        $1 > 1000 && NF == 5 {
            t = int(($1 - 1001) * 10 / (total - 1000))
            looks[t]++
            threads[t] = least(threads[t], $2); max_threads[t] = most(max_threads[t], $2)
            files[t] = least(files[t], $3); max_files[t] = most(max_files[t], $3)
            logs[t] = least(logs[t], $4); max_logs[t] = most(max_logs[t], $4)
            memory[t] = most(memory[t], $5)
        }
        END {
            print "| To step | Looks | Threads | Open files | of them in logs | Memory, KiB |"
            print "|---|---|---|---|---|---|"
            for (t = 0; t < 10; t++)
                printf "| %d | %d | %d to %d | %d to %d | %d to %d | %d |\n",
                       1000 + (total - 1000) * (t + 1) / 10, looks[t], threads[t], max_threads[t],
                       files[t], max_files[t], logs[t], max_logs[t], memory[t]
            exit !(looks[0] && looks[9] && threads[9] <= threads[0] && files[9] <= files[0] &&
                   logs[9] <= logs[0] && memory[9] <= memory[0] + noise)
        }' looks
}

soak() {
    local flags=() setting start=$SECONDS

    prepare_run
    for setting in "${settings[@]}"; do flags+=(--set "$setting"); done
    in_background trainer c.ini --gpus "$workers" "${flags[@]}"
    while kill -0 "$pid" 2>/dev/null; do
        look >>looks 2>/dev/null || true
        sleep 0.2
    done
    wait "$pid" || fail "the run failed: $(tail -n 1 "$work/stderr")"
    check_text "$work/stdout" "done: $steps steps"
    report >rows || { cat rows; fail "something has grown since step 1,000"; }
    cat rows
    echo "$(metrics check logs/metrics.jsonl), $(grep -c '^saved ' "$work/stdout") saves," \
        "$((SECONDS - start)) s"
}

run_case soak
finish
