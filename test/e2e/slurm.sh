#!/usr/bin/env bash
# slurm.sh - scripts/train_8gpu.sbatch under a SLURM of one node, which is started for it: over several
# time limits the job is stopped in time, saves, is queued again, and ends with the weights of a run that
# was never stopped. Skipped with a notice where SLURM (Debian: slurm-wlm) is not there or does not start.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
script=$here/../../scripts/train_8gpu.sbatch
daemons=()
slurm=$(mktemp -d /tmp/octet_slurm.XXXXXX)      # short, as the path of a socket must be

# in_time SECONDS COMMAND...: poll until it succeeds, at most so long.
in_time() {
    local end=$((SECONDS + $1))

    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}

has_no_jobs() {
    [ -z "$(timeout 10 squeue --noheader)" ]
}

have_ended() {      # PROCESS...
    ! kill -0 "$@" 2>/dev/null
}

# Whatever happens, no daemon and no job outlives the test.
end_slurm() {
    if [ ${#daemons[@]} -gt 0 ]; then
        timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
        in_time 20 has_no_jobs || true
        kill "${daemons[@]}" 2>/dev/null || true
        in_time 10 have_ended "${daemons[@]}" || kill -9 "${daemons[@]}" 2>/dev/null || true
    fi
    rm -rf "$slurm" "$work"
}
trap end_slurm EXIT

# Of this user, on this node alone; reads and writes nothing outside its folder. A job that was queued
# again waits until its credential has expired: two minutes, if nobody says less.
write_configuration() {
    local port=$((20000 + $$ % 10000 * 2)) host user

    host=$(hostname -s)
    user=$(id -un)
    mkdir "$slurm/state" "$slurm/spool"
    cat >"$slurm/slurm.conf" <<CONF
ClusterName=octet
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthInfo=socket=$slurm/munge.socket,cred_expire=5
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
    echo "NodeName=$host Name=gpu File=/dev/null,/dev/zero" >"$slurm/gres.conf"
    export SLURM_CONF=$slurm/slurm.conf
    head -c 1024 /dev/urandom >"$slurm/munge.key"
    chmod 600 "$slurm/munge.key"
}

start_daemon() {    # NAME [FLAG...]
    "$@" >>"$slurm/daemons.log" 2>&1 &
    daemons+=($!)
    disown      # no end of a case is theirs
}

node_is_idle() {
    timeout 10 sinfo --noheader --format=%t | grep -qx idle
}

start_slurm() {
    local name

    for name in munged slurmctld slurmd sbatch srun scontrol squeue scancel sinfo; do
        if ! command -v $name >/dev/null; then
            echo "$name is not installed (Debian: slurm-wlm)" >"$slurm/daemons.log"
            return 1
        fi
    done
    write_configuration
    start_daemon munged --foreground --force --key-file="$slurm/munge.key" \
        --socket="$slurm/munge.socket" --pid-file="$slurm/munged.pid" \
        --log-file="$slurm/munged.log" --seed-file="$slurm/munged.seed"
    in_time 10 test -S "$slurm/munge.socket" || return 1
    start_daemon slurmctld -D -c
    start_daemon slurmd -D
    in_time 60 node_is_idle
}

# The number of the job is in $job. SLURM signals up to half a minute sooner than it is asked to.
submit() {          # [TRAINER FLAG...]
    run sbatch --parsable --time=1 --signal=TERM@20 --gpus-per-node=2 "$script" c.ini --device cpu "$@"
    job=$(cat "$work/stdout")
    log=octet_$job.log
}

says() {            # TEXT [TIMES]
    [ "$(grep -cF -- "$1" "$log")" -ge "${2:-1}" ]
}

# soon SECONDS WHAT COMMAND...
soon() {
    in_time "$1" "${@:3}" || fail "no $2 in $1 s: $(grep -v '^sample' "$log" | tail -n 1)"
}

# After an evaluation it writes samples for so long that only its time limit ends it.
endless_run() {
    tiny_tokens 6000
    tiny_config dropout=0.1 batch_size=1 gradient_accumulation_steps=2 max_steps=0 num_epochs=20 \
        generate_samples=false
    expect_exit 0 "done: 840 steps" -- trainer c.ini --gpus 2 --set logging.log_dir=straight \
        --set checkpoint.save_dir=straight
    sed -i 's/^generate_samples = .*/generate_samples = true/; s/^num_samples = .*/num_samples = 1000/
            s/^sample_length = .*/sample_length = 20000/' c.ini
}

over_time_limits() {
    endless_run
    submit
    soon 150 "first stop" says ": requeued"
    soon 150 "second stop" says ": requeued" 2
    sed -i 's/^generate_samples = .*/generate_samples = false/' c.ini
    soon 150 "end" says "the trainer's exit code is 0: not requeued"
    soon 30 "empty queue" has_no_jobs
    check_text "$log" "stopped by signal 15 after step 42;"
    check_text "$log" "stopped by signal 15 after step 84;"
    check_text "$log" "resuming checkpoints/last_checkpoint.safetensors at step 84"
    check_text "$log" "done: 840 steps"
    check_equal "the starts" "$(grep -cE "job $job: start [012] on " "$log")" 3
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    check_same_run logs straight
    [ ! -e "octet_$job.stopped" ] || fail "octet_$job.stopped was left"
}

# scancel saves too, and the same command as a new job goes on from there.
cancelled() {
    endless_run
    submit
    soon 60 "evaluation" says "val loss"
    scancel "$job"
    soon 60 "end" says "ended by scancel"
    soon 60 "empty queue" has_no_jobs
    check_text "$log" "stopped by signal 15 after step 42;"
    sed -i 's/^generate_samples = .*/generate_samples = false/' c.ini
    submit
    soon 60 "end" says "the trainer's exit code is 0: not requeued"
    check_text "$log" "resuming checkpoints/last_checkpoint.safetensors at step 42"
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
}

if start_slurm; then
    run_case over_time_limits
    run_case cancelled
else
    skip_case "over_time_limits, cancelled" "$(tail -n 1 "$slurm/daemons.log")"
fi
finish
