#!/usr/bin/env bash
# emulated.sh - the whole CUDA trainer on emulated GPUs: PyTorch's numbers, any number of GPUs, and
# checkpoints that go from GPUs to CPU workers and back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
emulated_gpus 8
time_limit=300

# The oracle's twenty steps: AMP false within 1e-4, true (bfloat16) within 2%.
as_pytorch() {      # NAME GPUS AMP
    local oracle=$test_data/$1.safetensors

    oracle_config "$oracle" "$2" 1 "use_amp=$3"
    expect_exit 0 "done: 20 steps" -- trainer c.ini --init init.safetensors --gpus "$2"
    metrics values logs/metrics.jsonl loss >values
    tensors values "$oracle" losses >expected
    if [ "$3" = true ]; then
        check_near loss values expected rel 0.02
    else
        check_near loss values expected abs 1e-4
        check_tensors "$oracle" checkpoints/final_model.safetensors 1e-3 final.
    fi
}

# Head size 32, so that bfloat16 attention runs on the tensor cores' instructions.
gpu_run() {         # [KEY=VALUE...]
    tiny_tokens 8000
    tiny_config dim=64 heads=2 mlp_dim=96 batch_size=8 max_steps=6 dropout=0.1 eval_every=0 \
        lr_schedule=constant warmup_steps=2 "$@"
}

one_is_many() {     # AMP TOLERANCE
    local n

    gpu_run use_amp="$1"
    for n in 1 2 4 8; do
        expect_exit 0 "done: 6 steps" -- trainer c.ini --gpus "$n" \
            --set training.batch_size=$((8 / n)) --set logging.log_dir="logs$n" \
            --set checkpoint.save_dir="checkpoints$n"
        check_near_run "logs$n" logs1 1 6 "$2"
    done
}

resume_is_exact() { # AMP_DTYPE GPUS
    gpu_run use_amp=true amp_dtype="$1" batch_size=2
    expect_exit 0 "done: 6 steps" -- trainer c.ini --gpus "$2" \
        --set logging.log_dir=straight --set checkpoint.save_dir=straight
    expect_exit 0 "done: 3 steps" -- trainer c.ini --gpus "$2" --set training.max_steps=3
    expect_exit 0 "done: 6 steps" -- trainer c.ini --gpus "$2" --resume auto
    check_tensors checkpoints/final_model.safetensors straight/final_model.safetensors 0
}

# Graphs or not, and however the gradients are summed: the same bits.
same_bits() {       # GPUS KEY=VALUE [KEY=VALUE...]: the same run again, with this setting
    local gpus=$1 setting=$2

    gpu_run use_amp=true batch_size=2 gradient_accumulation_steps=2 "${@:3}"
    expect_exit 0 "done: 6 steps" -- trainer c.ini --gpus "$gpus"
    expect_exit 0 "done: 6 steps" -- trainer c.ini --gpus "$gpus" --set "$setting" \
        --set logging.log_dir=again --set checkpoint.save_dir=again
    check_tensors checkpoints/final_model.safetensors again/final_model.safetensors 0
}

# So few tokens, and float16 overflows at the first loss scale: one step is passed over, and with the
# next scale graphs are recorded anew.
loss_scale_falls() {
    local graphs

    tiny_tokens 8000
    tiny_config dim=64 heads=2 mlp_dim=96 batch_size=1 max_seq_len=2 max_steps=14 dropout=0.1 \
        eval_every=0 lr_schedule=constant use_amp=true amp_dtype=float16
    for graphs in true false; do
        expect_exit 0 "done: 14 steps" -- trainer c.ini --gpus 2 \
            --set distributed.cuda_graphs=$graphs --set logging.log_dir=$graphs \
            --set checkpoint.save_dir=$graphs
        check_text $graphs/metrics.jsonl '"grad_norm":null'
    done
    check_tensors true/final_model.safetensors false/final_model.safetensors 0
}

# The default model's gradients are one bucket and a bit: large enough here for several.
several_buckets() {
    tiny_tokens 8000
    tiny_config dim=512 heads=8 mlp_dim=2048 depth=5 max_seq_len=4 batch_size=1 max_steps=2 \
        eval_every=0 save_optimizer=false
    expect_exit 0 "done: 2 steps" -- trainer c.ini --gpus 2
    expect_exit 0 "done: 2 steps" -- trainer-cpu c.ini --gpus 2 --device cpu \
        --set logging.log_dir=cpu --set checkpoint.save_dir=cpu
    check_near_run logs cpu 1 2 1e-4
}

# CPU workers go on with a GPU's run, and the other way round.
between_backends() {    # FIRST SECOND: what stands behind "trainer"
    gpu_run batch_size=4 dropout=0
    expect_exit 0 "done: 6 steps" -- trainer-cpu c.ini --device cpu \
        --set logging.log_dir=straight --set checkpoint.save_dir=straight
    expect_exit 0 "done: 3 steps" -- trainer$1 --gpus 1 --set training.max_steps=3
    expect_exit 0 "done: 6 steps" -- trainer$2 --gpus 1 --set training.max_steps=6 --resume auto
    check_near_run logs straight 1 6 1e-4
}

# A saved step is the same again on GPUs, and near enough on a CPU; and the other way round.
verified() {        # GPUS [KEY=VALUE...]
    gpu_run save_every=1 batch_size=2 "${@:2}"
    expect_exit 0 "done: 6 steps" -- trainer c.ini --gpus "$1"
    expect_exit 0 "the same bits" -- trainer --verify checkpoints/final_model.safetensors
    check_text "$work/stdout" "✓ step replayed on GPU 0"
    expect_exit 0 "✓ step replayed on CPU worker" -- \
        trainer-cpu --verify checkpoints/final_model.safetensors --device cpu
    expect_exit 0 "done: 6 steps" -- trainer-cpu c.ini --gpus "$1" --device cpu \
        --set checkpoint.save_dir=cpu --set logging.log_dir=cpu
    expect_exit 0 "✓ step replayed on GPU 0" -- \
        trainer --verify cpu/final_model.safetensors --device cuda
}

# sample_text PROGRAM FILE [FLAG...]
sample_text() {
    expect_exit 0 "step 6" -- "$1" --checkpoint checkpoints --prompt "The " --max-length 40 "${@:3}"
    cp "$work/stdout" "$2"
}

# The likeliest token is the same, whether the GPU finds it or the host among all logits; and float32
# texts are those of the CPU.
texts() {           # AMP [AMP_DTYPE]
    gpu_run use_amp="$1" amp_dtype="${2:-bfloat16}"
    expect_exit 0 "done: 6 steps" -- trainer c.ini --gpus 1
    sample_text sample by_gpu --temperature 0
    sample_text sample by_host --temperature 1 --top-k 0 --top-p 1e-9
    cmp -s by_gpu by_host || fail "\"$(cat by_gpu)\" is not \"$(cat by_host)\""
    [ "$1" = false ] || return 0
    sample_text sample by_gpu --temperature 1 --top-k 40
    sample_text sample-cpu by_cpu --temperature 1 --top-k 40 --device cpu
    cmp -s by_gpu by_cpu || fail "\"$(cat by_gpu)\" is not \"$(cat by_cpu)\""
}

run_case as_pytorch rope_tiny 1 false
run_case as_pytorch rope_tiny 4 false
run_case as_pytorch learned_tiny 2 false
run_case as_pytorch rope_tiny 2 true
run_case as_pytorch learned_tiny 1 true
run_case one_is_many false 1e-5
run_case one_is_many true 1e-2
run_case resume_is_exact bfloat16 1
run_case resume_is_exact float16 2
run_case same_bits 1 distributed.cuda_graphs=false
run_case same_bits 2 distributed.cuda_graphs=false amp_dtype=float16
run_case same_bits 3 distributed.share_gpu=true
run_case loss_scale_falls
run_case several_buckets
run_case between_backends "-cpu c.ini --device cpu" " c.ini --device cuda"
run_case between_backends " c.ini --device cuda" "-cpu c.ini --device cpu"
run_case verified 1
run_case verified 2 use_amp=true
run_case verified 1 use_amp=true amp_dtype=float16 cuda_graphs=false
run_case texts false
run_case texts true bfloat16
run_case texts true float16
finish
