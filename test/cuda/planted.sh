#!/usr/bin/env bash
# planted.sh - the attention kernels pass their test under the race checker, and fail it without any
# single one of their barriers and waits for copies (attention_planted.cpp).
set -euo pipefail
if [ $# -ne 1 ] || [ ! -x "$1" ]; then
    echo "usage: $0 PROGRAM" >&2
    exit 2
fi
program=$(realpath "$1")
cd "$(dirname "$0")/../../kernels/cuda"
ulimit -c 0
n_passed=0
n_failed=0

passed() {
    n_passed=$((n_passed + 1))
    echo "ok     $*"
}

failed() {
    n_failed=$((n_failed + 1))
    echo "FAILED $*"
}

case_of() {         # FILE: a case that runs its kernels
    case $1 in
    attention_decode.cuh) echo cached_float32 ;;
    attention_plain.cuh) echo float32_32 ;;
    *) echo bfloat16_32 ;;
    esac
}

# One case at least for each kernel.
nothing_planted() {
    local output

    if output=$("$program" bfloat16_32 bfloat16_64 bfloat16_128 float32_32 other_head_sizes \
                cached_float32 cached_bfloat16 off_alignment 2>&1); then
        passed "nothing planted"
    else
        failed "nothing planted: $output"
    fi
}

# Either the checker stops the program, or the test finds wrong numbers.
planted() {         # FILE:LINE
    local output reason

    if output=$(OCTET_PLANTED=$1 "$program" "$(case_of "${1%:*}")" 2>&1); then
        failed "planted $1: it passed all the same"
    elif reason=$(grep -Eom 1 '(race in|reads byte|attention_[a-z]*:) .*' <<<"$output"); then
        passed "planted $1: caught by \"$reason\""
    else
        failed "planted $1: $output"
    fi
}

nothing_planted
for place in $(grep -noE '(__syncthreads|__syncwarp|cp_async_wait<[0-9]+>)\(\);' attention*.cuh |
               cut -d : -f 1,2); do
    planted "$place"
done
echo "$n_passed passed, $n_failed failed"
[ $n_failed -eq 0 ] && [ $n_passed -gt 1 ]
