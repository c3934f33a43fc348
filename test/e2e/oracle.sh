#!/usr/bin/env bash
# oracle.sh - twenty optimizer steps against the numbers that PyTorch computed for the same model.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# The configuration that a file of the oracle describes; its batch is shared by the workers, and by
# the micro-batches of each.
oracle_config() {   # ORACLE WORKERS ACCUMULATION
    local settings=() key

    for key in max_seq_len dim depth heads mlp_dim use_rotary_emb learning_rate warmup_steps \
               min_lr_ratio weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm; do
        settings+=("$key=$(tensors metadata "$1" $key)")
    done
    tiny_config "${settings[@]}" shuffle=false "max_steps=$(tensors metadata "$1" steps)" \
        "batch_size=$(($(tensors metadata "$1" batch) / $2 / $3))" "gradient_accumulation_steps=$3"
}

as_pytorch() {      # NAME WORKERS ACCUMULATION
    local oracle=$test_data/$1.safetensors

    oracle_config "$oracle" "$2" "$3"
    tensors tokens "$oracle" stream tokens.safetensors "$(tensors metadata "$oracle" vocab_size)"
    tensors extract "$oracle" init. init.safetensors
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
