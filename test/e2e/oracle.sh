#!/usr/bin/env bash
# oracle.sh - twenty optimizer steps against the numbers that PyTorch computed for the same model.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

as_pytorch() {      # NAME WORKERS ACCUMULATION
    local oracle=$test_data/$1.safetensors

    oracle_config "$oracle" "$2" "$3"
    expect_exit 0 "done: 20 steps" -- trainer c.ini --init init.safetensors --gpus "$2"

    check_column loss losses abs 1e-5
    check_column grad_norm norms rel 1e-4
    check_column lr lrs rel 1e-6
    check_tensors "$oracle" checkpoints/final_model.safetensors 1e-4 final.
}

# A key of metrics.jsonl against a tensor of $oracle.
check_column() {    # KEY TENSOR abs|rel TOLERANCE
    metrics values logs/metrics.jsonl "$1" >values
    tensors values "$oracle" "$2" >expected
    check_near "$1" values expected "$3" "$4"
}

for positions in rope_tiny learned_tiny; do
    run_case as_pytorch $positions 1 1
    run_case as_pytorch $positions 2 1
    run_case as_pytorch $positions 4 1
    run_case as_pytorch $positions 1 2
    run_case as_pytorch $positions 2 2
done
finish
