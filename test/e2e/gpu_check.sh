#!/usr/bin/env bash
# gpu_check.sh - trainer --check on emulated GPUs, with faults among them; and set-ups in which GPUs
# cannot do what is asked for: one line says why, and nothing on the disk is touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
emulated_gpus 8

tiny() {            # [KEY=VALUE...]
    tiny_tokens 8000
    tiny_config dim=64 heads=2 mlp_dim=96 batch_size=2 dropout=0.1 "$@"
}

# N lines of what was printed match PATTERN.
check_lines() {     # N PATTERN
    local n

    n=$(grep -c -- "$2" "$work/stdout" || true)
    check_equal "the number of lines that match \"$2\"" "$n" "$1"
}

# ---- the report ----

one_gpu() {
    tiny
    expect_exit 0 "ready to train" -- trainer c.ini --check --gpus 1
    check_lines 1 '^✓ devices: 1 GPU; CUDA driver 1.*, runtime 1.*, cuBLASLt 1.*, NCCL 2[0-9.]*$'
    check_lines 1 '^✓ GPU 0: Emulated GPU 0, compute capability 9.0, 8192 MiB of memory, .* free$'
    check_lines 1 '^✓ GPU 0 (Emulated GPU 0): training step in float32: loss '
    check_lines 0 'peer access\|all-reduce\|GPU 1\|✗'
}

# Two pairs of GPUs, of eight that there are.
four_gpus() {
    tiny
    OCTET_EMULATED_PEERS=2 expect_exit 0 "ready to train" -- trainer c.ini --check --gpus 4
    check_lines 4 '^✓ GPU [0-3]: Emulated GPU'
    check_lines 1 '^✓ peer access: x is direct, - goes through the host$'
    check_lines 1 '^              0   1   2   3$'
    check_lines 1 '^    GPU 0     \.   x   -   -$'
    check_lines 1 '^    GPU 1     x   \.   -   -$'
    check_lines 1 '^    GPU 2     -   -   \.   x$'
    check_lines 1 '^    GPU 3     -   -   x   \.$'
    check_lines 1 '^✓ all-reduce over 4 GPUs: right; .* bus bandwidth [0-9.]* GB/s'
    check_lines 1 '^✓ memory: .* needed on each GPU'
    check_lines 4 '^✓ GPU [0-3] (Emulated GPU [0-3]): training step in float32'
    check_lines 0 'GPU 4\|✗'
}

in_type() {         # TYPE
    tiny use_amp=true amp_dtype="$1" use_rotary_emb=false depth=3
    expect_exit 0 "training step in $1" -- trainer c.ini --check --gpus 2
    check_lines 0 '✗'
}

on_the_cpu() {
    tiny device=cpu
    expect_exit 0 "ready to train" -- trainer c.ini --check --gpus 2
    check_lines 1 '^✓ devices: 2 x CPU worker'
    check_lines 1 '^✓ self-test: '
    check_lines 0 'GPU\|all-reduce\|✗'
}

# ---- faults ----

# One cross that names the GPU, and all else is checked all the same.
cross() {           # RULE PATTERN N_STEPS
    tiny
    OCTET_EMULATOR_TIMEOUT=1 OCTET_EMULATOR_FAIL=$1 expect_exit 1 "not ready: see the lines" -- \
        trainer c.ini --check --gpus 4
    check_lines 1 '^✗'
    check_lines 1 "^✗ $2"
    check_lines 1 '^✓ disk: '
    check_lines "$3" '^✓ .* training step'
}

# Nothing more can be asked of GPUs then.
nccl_hangs() {
    tiny
    OCTET_EMULATOR_FAIL=nccl-hang:ncclCommInitAll:1 expect_exit 1 "ncclCommInitAll has not come back" -- \
        trainer c.ini --check --gpus 4 --set distributed.comm_timeout=1
    check_lines 1 '^✗ NCCL between 4 GPUs: ncclCommInitAll has not come back in 1 s'
    check_lines 0 '^✓ disk: '
}

# ---- wrong set-ups ----

no_driver() {
    tiny
    export OCTET_EMULATED_DRIVER=none
    expect_bad "distributed.device = cuda: no CUDA driver was found" "use auto or cpu" -- \
        trainer c.ini
    expect_exit 1 "✗ distributed.device = cuda: no CUDA driver" -- trainer c.ini --check
    expect_exit 0 "✓ self-test" -- trainer c.ini --check --device auto
    check_no_text "$work/stdout" notice
}

old_driver() {
    tiny
    export OCTET_EMULATED_DRIVER=10.2
    expect_bad "distributed.device = cuda: the CUDA driver is too old: it supports CUDA 10.2" \
        "update" -- trainer c.ini
    expect_exit 0 "notice: computing on the CPU: the CUDA driver is too old" -- \
        trainer c.ini --check --device auto
    check_text "$work/stdout" "✓ self-test"
    expect_exit 0 "" -- trainer c.ini --check --device cpu
    check_no_text "$work/stdout" notice
}

nothing_visible() {
    tiny
    export OCTET_EMULATED_GPUS=0
    unset CUDA_VISIBLE_DEVICES
    expect_bad "no GPU is visible; use auto or cpu" -- trainer c.ini
    CUDA_VISIBLE_DEVICES=7 expect_bad 'no GPU is visible (CUDA_VISIBLE_DEVICES is "7")' -- \
        trainer c.ini
    expect_exit 0 "✓ self-test" -- trainer c.ini --check --device auto
    check_no_text "$work/stdout" notice
}

too_many() {
    tiny
    CUDA_VISIBLE_DEVICES=4,5 OCTET_EMULATED_GPUS=2 expect_bad \
        'distributed.gpus = 3: there are 2 GPUs (CUDA_VISIBLE_DEVICES is "4,5")' -- \
        trainer c.ini --gpus 3
}

too_old() {
    tiny
    export OCTET_EMULATED_CAPABILITY=75
    expect_bad "capability 8.0 or newer" "GPU 0 (Emulated GPU 0) has 7.5" "use auto or cpu" -- \
        trainer c.ini
    expect_exit 0 "notice: computing on the CPU: " -- trainer c.ini --check --device auto
}

head_size() {
    tiny dim=516 heads=2
    expect_bad "model.dim = 516, model.heads = 2: heads of 258" "up to 256" "use --device cpu" -- \
        trainer c.ini
    expect_exit 0 "✓ self-test" -- trainer c.ini --check --device cpu
    tiny dim=512 heads=2 depth=1 mlp_dim=8 max_seq_len=4
    expect_exit 0 "ready to train" -- trainer c.ini --check --gpus 1
}

# The batch_size that is said to fit does, and no larger one.
memory() {          # GPUS MIB
    local fits

    tiny_tokens 80000
    tiny_config dim=64 heads=2 mlp_dim=96 batch_size=600
    export OCTET_EMULATED_MEMORY=$(($2 << 20))
    expect_bad "MiB of memory are needed for each GPU" "available on GPU 0" -- \
        trainer c.ini --gpus "$1"
    check_text "$work/stdout" "memory per worker, MiB: weights"
    fits=$(sed -n 's/.*: training.batch_size = \([0-9]*\) would fit.*/\1/p' "$work/stderr")
    [ "${fits:-0}" -gt 1 ] || fail "no batch_size is said to fit: $(cat "$work/stderr")"
    expect_bad "training.batch_size = $fits would fit" -- trainer c.ini --gpus "$1" \
        --set training.batch_size=$((fits + 1))
    expect_exit 0 "✓ memory: " -- trainer c.ini --gpus "$1" --check \
        --set training.batch_size="$fits"
}

not_even_one() {
    tiny
    OCTET_EMULATED_MEMORY=$((256 << 20)) expect_bad "not even training.batch_size = 1 fits" -- \
        trainer c.ini --gpus 1
}

run_case one_gpu
run_case four_gpus
run_case in_type bfloat16
run_case in_type float16
run_case on_the_cpu
run_case cross nccl:ncclCommInitAll:1 "NCCL between 4 GPUs: " 4
run_case cross nccl:ncclAllReduce:2@3 "rank 3: GPU 3 (Emulated GPU 3): ncclAllReduce: " 4
run_case cross nccl-async:ncclAllReduce:3@1 "rank 1: GPU 1 .*: all-reduce: " 4
run_case cross nccl-lost:ncclAllReduce:4@2 "rank .*: all-reduce: .* missing ranks: 2" 4
run_case cross kernel:20@2 "GPU 2 (Emulated GPU 2): .*: an illegal memory access" 3
run_case cross launch:20@1 "GPU 1 (Emulated GPU 1): .*: too many resources" 3
run_case cross malloc:1@3 "rank 3: GPU 3 (Emulated GPU 3): .*out of memory" 4
run_case cross cublas:5@0 "GPU 0 (Emulated GPU 0): product " 3
run_case nccl_hangs
run_case no_driver
run_case old_driver
run_case nothing_visible
run_case too_many
run_case too_old
run_case head_size
run_case memory 1 300
run_case memory 2 812
run_case not_even_one
finish
