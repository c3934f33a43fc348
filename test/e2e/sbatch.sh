#!/usr/bin/env bash
# sbatch.sh - scripts/train_8gpu.sbatch with commands that stand in for SLURM's, on CPU workers: it
# requeues a run that was stopped in time, and no other.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mkdir "$work/bin"
# Its task is a session of its own: the batch script's signals are not its signals.
cat >"$work/bin/srun" <<'END'
#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
echo "$*" >>srun.log
trap : TERM
setsid "$@" &
echo $! >task
code=0
wait $! || code=$?
while kill -0 $! 2>/dev/null; do wait $! || code=$?; done
exit $code
END
cat >"$work/bin/scontrol" <<'END'
#!/usr/bin/env bash
echo "$*" >>scontrol.log
END
chmod +x "$work/bin"/*
PATH=$work/bin:$PATH
export SLURM_JOB_ID=77 SLURM_JOB_NAME=octet SLURM_GPUS_ON_NODE=2

script=$here/../../scripts/train_8gpu.sbatch

# 1680 steps of an instant each.
long_run() {
    tiny_tokens 6000
    tiny_config max_steps=0 num_epochs=40 batch_size=2 "$@"
}

# start [FLAG...]: the job, with its output in job.log as SLURM would append it.
start() {
    setsid bash "$script" c.ini --device cpu "$@" >>job.log 2>&1 &
    pid=$!
}

# ends CODE TEXT
ends() {
    ends_with "$1"
    check_text job.log "$2"
}

requeued() {        # TIMES
    touch scontrol.log
    check_equal "the number of requeues" "$(awk '/^requeue 77$/ { n++ } END { print n + 0 }' \
                                            scontrol.log)" "$1"
}

# stop_at STEP: SIGTERM for the task alone, as --signal=TERM@300 does it.
stop_at() {
    wait_until has_steps logs/metrics.jsonl "$1"
    kill -TERM "$(cat task)"
}

over_two_limits() {
    long_run
    expect_exit 0 "done: 1680 steps" -- trainer c.ini --gpus 2 --set logging.log_dir=straight \
        --set checkpoint.save_dir=straight
    start
    stop_at 60
    ends 143 "requeued"
    requeued 1
    SLURM_RESTART_COUNT=1 start
    stop_at 150
    ends 143 "requeued"
    requeued 2
    SLURM_RESTART_COUNT=2 start
    ends 0 "the trainer's exit code is 0: not requeued"
    requeued 2
    check_text job.log "done: 1680 steps"
    check_equal "the starts" "$(grep -c 'c.ini --device cuda --gpus 2 --resume auto --device cpu$' \
                                srun.log)" 3
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    check_same_run logs straight
    [ ! -e octet_77.stopped ] || fail "octet_77.stopped was left"
}

flags_reach_the_trainer() {
    long_run
    start --gpus 1 --set training.max_steps=3
    ends 0 "done: 3 steps"
    check_text job.log "1 worker x"
    requeued 0
}

failing_run() {
    long_run learning_rate=fast
    start
    ends 2 "exit code is 2: not requeued"
    check_text job.log "training.learning_rate"
    requeued 0
}

# A task that ends with 143 each time, as one that never gets to its first step.
without_progress() {
    echo 'exit 143' >trainer
    chmod +x trainer
    touch c.ini
    OCTET_TRAINER=./trainer start
    ends 143 "not requeued without progress"
    requeued 0

    echo 'echo "stopped by signal 15 after step 40; --resume auto goes on"; exit 143' >trainer
    OCTET_TRAINER=./trainer start
    ends 143 "stopped at step 40: requeued"
    requeued 1
    OCTET_TRAINER=./trainer start
    ends 143 "stopped at step 40, the time before at step 40"
    requeued 1
}

# scancel: the script and all that it runs are told, as well as the task.
cancelled() {
    long_run
    start
    wait_until has_steps logs/metrics.jsonl 30
    kill -TERM -- "-$pid"
    kill -TERM "$(cat task)"
    ends 143 "ended by scancel"
    requeued 0
    check_text job.log "stopped by signal 15 after step"
    test -f checkpoints/last_checkpoint.safetensors
    [ ! -e octet_77.stopped ] || fail "octet_77.stopped was left"
}

requeue_fails() {
    long_run
    printf '#!/bin/sh\nexit 1\n' >scontrol
    chmod +x scontrol
    PATH=.:$PATH start
    stop_at 60
    ends 143 "scontrol requeue failed: submit it again"
}

usage() {
    expect_exit 2 "usage: sbatch" -- bash "$script"
    SLURM_JOB_ID='' expect_exit 2 "usage: sbatch" -- bash "$script" c.ini
    OCTET_TRAINER=/no/trainer expect_exit 2 "no trainer" -- bash "$script" c.ini
    requeued 0
}

run_case over_two_limits
run_case flags_reach_the_trainer
run_case failing_run
run_case without_progress
run_case cancelled
run_case requeue_fails
run_case usage
finish
