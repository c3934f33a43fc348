#!/usr/bin/env bash
# test.sh - run.sh, with its programs built for emulated GPUs: what it runs and what it writes down.
set -euo pipefail
. "$(dirname "$0")/../../test/e2e/lib.sh"

benches=$programs/bench/gpu
scripts=$(cd "$(dirname "$0")" && pwd)
bench=("$scripts/run.sh" --programs "$benches" --toy)
export OUT=results

all_parts() {
    local text

    expect_exit 0 "0 of the parts above failed" -- "${bench[@]}"
    for text in "check_step: 6 passed, 0 failed" "## Kernels" "| adamw " "_backward, dropout" \
                "## Training steps" "small, dropout 0.1" "gpt2-124m" "gpt2-1.5b" "| whole step " \
                "commit "; do
        check_text results/gpu_emulated_*.md "$text"
    done
    check_no_text results/gpu_emulated_*.md FAILED
    check_no_text results/gpu_emulated_*.md " h |"      # all operations could be recorded
}

one_model() {
    expect_exit 0 "gpt2-124m" -- "${bench[@]}" --only steps --models gpt2-124m --quick --fastest
    check_no_text results/gpu_emulated_*.md "gpt2-1.5b"
    check_no_text results/gpu_emulated_*.md "## Kernels"
    expect_exit 0 "results" -- "${bench[@]}" --only steps --models gpt2-124m
    check_equal "the number of results" "$(ls results | wc -l)" 2
}

bad_flags() {
    expect_exit 2 "--many" -- "${bench[@]}" --many
    expect_exit 2 "--models needs a value" -- "${bench[@]}" --models
    expect_exit 2 "--only speed: expected build, or" -- "${bench[@]}" --only speed
    expect_exit 1 "there are small, gpt2-124m and gpt2-1.5b" -- \
        "${bench[@]}" --only steps --models small,big
}

failing_program() {
    mkdir bad
    ln -s "$benches/kernels" bad
    printf '#!/bin/sh\necho "FAILED steps"; exit 3\n' >bad/steps
    printf '#!/bin/sh\necho "FAILED attention"; echo "1 passed, 1 failed"; exit 1\n' >bad/check_step
    chmod +x bad/*
    expect_exit 1 "2 of the parts above failed" -- \
        "$scripts/run.sh" --programs bad --toy --only checks,steps
    check_text results/gpu_emulated_*.md "check_step: 1 passed, 1 failed; exit code 1"
    check_text results/gpu_emulated_*.md "FAILED attention"
    check_text results/gpu_emulated_*.md "steps: exit code 3"
}

# An operation that cannot be timed is named; the others are timed all the same.
failing_gpu() {
    OCTET_EMULATOR_FAIL=cublas:cublasLtMatmulAlgoGetHeuristic:9 expect_exit 1 "| FAILED: GPU 0" -- \
        "${bench[@]}" --only kernels --models small
    check_text results/gpu_emulated_*.md "| adamw "
    OCTET_EMULATED_GPUS=0 expect_exit 1 "no GPU is visible" -- "${bench[@]}" --only kernels,steps
}

# Where the batch does not fit, half of it is taken: the least memory that does is for one window.
little_memory() {
    local bytes

    for ((bytes = 34000000; bytes < 50000000; bytes += 100000)); do
        if OCTET_EMULATED_MEMORY=$bytes run "${bench[@]}" --only steps --models gpt2-124m; then
            check_text "$work/stdout" "1 x 32"
            return
        fi
        check_text "$work/stdout" "MiB are needed and"
    done
    fail "no memory is enough"
}

run_case all_parts
run_case one_model
run_case bad_flags
run_case failing_program
run_case failing_gpu
run_case little_memory
finish
