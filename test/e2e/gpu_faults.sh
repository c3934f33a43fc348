#!/usr/bin/env bash
# gpu_faults.sh - what a GPU can do to a run, on emulated GPUs: it ends soon, says which GPU and which
# call it was, and the checkpoint from before is whole and can be resumed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
emulated_gpus 8
time_limit=15

# A run of three steps, to be resumed on so many GPUs with what should go wrong.
first_steps() {     # GPUS
    if [ ! -d "$work/steps$1" ]; then
        mkdir "$work/steps$1" && cd "$work/steps$1"
        tiny_tokens 8000
        tiny_config dim=64 heads=2 mlp_dim=96 batch_size=2 max_steps=8 dropout=0.1 eval_every=0 \
            lr_schedule=constant
        expect_exit 0 "done: 3 steps" -- trainer c.ini --gpus "$1" --set training.max_steps=3
        cd "$OLDPWD"
    fi
    cp -r "$work/steps$1/." .
    before=$(fingerprint checkpoints)
}

# fails_with RULE GPUS TEXT...: each TEXT is in the one message of the failed run.
fails_with() {
    local rule=$1 gpus=$2 text

    shift 2
    OCTET_EMULATOR_FAIL=$rule expect_exit 1 "" -- trainer c.ini --gpus "$gpus" --resume auto \
        --set distributed.comm_timeout=3
    check_equal "the number of messages" "$(grep -c "^trainer: " "$work/stderr")" 1
    for text in "$@"; do
        grep "^trainer: " "$work/stderr" | grep -qF -- "$text" ||
            fail "the message does not say \"$text\": $(grep "^trainer: " "$work/stderr")"
    done
}

# Nothing of before is lost.
check_checkpoints() {
    check_whole checkpoints
    rm -f checkpoints/last_checkpoint.safetensors
    check_equal "the checkpoints" "$(fingerprint checkpoints)" "$before"
}

fault() {           # RULE GPUS TEXT...
    first_steps "$2"
    fails_with "$@"
    check_checkpoints
}

# And the run goes on from there.
then_goes_on() {    # RULE GPUS TEXT...
    fault "$@"
    expect_exit 0 "done: 8 steps" -- trainer c.ini --gpus "$2" --resume auto
}

# What rank 0 has when something fails later on is saved, if it is the state between two steps; and the
# run that goes on from it is the one that never failed, bit for bit.
rescued() {         # GPUS RULE...
    local gpus=$1 rule n_saved=0

    shift
    first_steps "$gpus"
    cp -r checkpoints straight
    cp -r checkpoints before
    expect_exit 0 "done: 8 steps" -- trainer c.ini --gpus "$gpus" --resume auto \
        --set checkpoint.save_dir=straight --set logging.log_dir=straight
    for rule in "$@"; do
        rm -rf checkpoints logs
        cp -r before checkpoints
        fails_with "$rule" "$gpus"
        [ ! -e checkpoints/last_checkpoint.safetensors ] || n_saved=$((n_saved + 1))
        expect_exit 0 "done: 8 steps" -- trainer c.ini --gpus "$gpus" --resume auto
        check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
    done
    [ $n_saved -gt 0 ] || fail "nothing was ever saved"
}

# A gradient that is no number reaches no weights of any GPU.
no_number() {
    first_steps 4
    OCTET_TEST_FAULT=nan:rank=2:phase=gradient:step=4:times=2 \
        expect_exit 0 "rank 2 finds it again in windows" -- trainer c.ini --gpus 4 --resume auto
    check_equal "the number of skipped steps" "$(grep -c '"skipped":true' logs/metrics.jsonl)" 1
    first_steps 4
    OCTET_TEST_FAULT=nan:rank=3:phase=gradient:step=4:times=4 \
        expect_exit 0 "after step 6: back to the weights of step 3" -- trainer c.ini --gpus 4 \
        --resume checkpoints/final_model.safetensors --set training.max_bad_steps=2
    check_text "$work/stdout" "done: 8 steps"
}

run_case no_number
run_case rescued 1 memcpy:{130,131,132,133,134,135,136,137}
run_case rescued 2 nccl-async:15@1 kernel:adamw_kernel:5@1
run_case fault malloc:2@2 4 "rank 2: GPU 2" "MiB of memory"
run_case fault stream:2 2 "GPU" "cudaStreamCreateWithPriority"
run_case fault event:3 4 "GPU" "cudaEventCreateWithFlags"
run_case fault memcpy:40@1 2 "rank 1: GPU 1" "cudaMemcpyAsync"
run_case fault launch:adamw_kernel:3@1 2 "rank 1: GPU 1" "adamw"
run_case fault kernel:adamw_kernel:3@3 4 "rank 3: GPU 3" "illegal memory access"
run_case fault kernel:200@6 8 "rank 6: GPU 6" "illegal memory access"
run_case then_goes_on kernel:200 1 "GPU 0" "illegal memory access"
run_case fault cublas:cublasLtMatmul:9@1 2 "rank 1: GPU 1" "cublasLtMatmul"
run_case fault cublas:cublasLtCreate:2 2 "cublasLtCreate"
run_case fault nccl:ncclCommInitAll:1 4 "NCCL between 4 GPUs"
run_case then_goes_on nccl-hang:ncclCommInitAll:1 2 "ncclCommInitAll has not come back in 3 s"
run_case fault nccl:ncclAllReduce:12@5 8 "rank 5: GPU 5" "ncclAllReduce"
run_case fault nccl-async:12@1 2 "rank 1: GPU 1" "all-reduce"
run_case then_goes_on nccl-lost:12@2 4 "all-reduce 12" "all ranks have reached it"
# NCCL cannot even be left; the process ends all the same.
run_case then_goes_on nccl-async:12@3,nccl-hang:ncclCommAbort:1 4 "rank 3: GPU 3" "all-reduce"
finish
