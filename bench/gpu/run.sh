#!/usr/bin/env bash
# run.sh - builds what it takes to check and measure a GPU, runs it, and writes the results down.
#
#     bench/gpu/run.sh [--quick] [--models LIST] [--fastest] [--only LIST] [--toy] [--emulator]
#                      [--jobs N] [--build FOLDER] [--programs FOLDER] [--arch NN]
#
# For a bare machine with a GPU: it needs a C and C++ compiler, nvcc, cudart, cuBLASLt and NCCL, of
# a CUDA toolkit or of pip's packages, and fetches nothing. The parts are
#
#     checks      the kernels against plain references in double, and the gradients of whole models
#     kernels     the time of every operation, beside what the GPU can do at all
#     steps       whole training steps: ms, tokens/s, utilisation, memory
#
#     --only LIST     some of them, separated by commas; or "build": none
#     --quick         fewer repetitions
#     --models LIST   of small,gpt2-124m,gpt2-1.5b; default: all
#     --fastest       steps with run.deterministic = false
#     --toy           tiny sizes
#     --emulator      build for emulated GPUs, with --toy: tries this script where there is no GPU
#     --jobs N        compilers at a time; default: one for each core
#     --build FOLDER  default: build-gpu
#     --programs      take the programs from this folder and build nothing
#     --arch NN       the compute capability to build for, as in 90; default: that of the first GPU
#
# The results are printed, and written to $OUT/gpu_NAME_DATE.md; without OUT to bench/results, or a
# toy's to the build folder. The commit is git's or, in a copy without git, that of commit.txt at
# the top of the tree ("git describe --always --dirty >commit.txt" before copying). Exit code: 0; 1
# if a part failed; 2 for bad usage and where it cannot be built.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
command_line="bench/gpu/run.sh${*:+ }$*"
build=
programs=
only=checks,kernels,steps
jobs=$(nproc)
arch=
toy=false
emulator=false
flags=()
check_seconds=300       # then something hangs
part_seconds=600

die() { echo "run.sh: $*" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
    --quick | --fastest) flags+=("$1") ;;
    --toy) toy=true ;;
    --emulator) emulator=true toy=true ;;
    --models | --only | --jobs | --build | --programs | --arch)
        [ $# -gt 1 ] || die "$1 needs a value"
        case $1 in
        --models) flags+=(--models "$2") ;;
        --only) only=$2 ;;
        --jobs) jobs=$2 ;;
        --build) mkdir -p "$2" && build=$(cd "$2" && pwd) ;;
        --programs) programs=$(cd "$2" && pwd) && build=$programs ;;
        --arch) arch=${2//./} ;;
        esac
        shift ;;
    *) die "$1: the flags are at the head of $root/bench/gpu/run.sh" ;;
    esac
    shift
done
[[ $only =~ ^(build|(checks|kernels|steps)(,(checks|kernels|steps))*)$ ]] ||
    die "--only $only: expected build, or some of checks,kernels,steps"
if $toy; then flags+=(--toy); fi
if [ -z "$build" ]; then
    if $emulator; then build=$root/build-gpu-emulator; else build=$root/build-gpu; fi
fi

. "$root/bench/gpu/build.sh"

is_wanted() { [[ ,$only, == *,$1,* ]]; }

# ---- where and what ----

query_gpu() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1 || true; }

commit() {
    git -C "$root" describe --always --dirty 2>/dev/null || cat "$root/commit.txt" 2>/dev/null ||
        echo unknown
}

# Whatever the commit says, the same sources have the same digest.
digest() {
    (cd "$root" && find src kernels bench/gpu test/ops test/cuda -type f -print0 | sort -z |
        xargs -0 sha256sum | sha256sum | cut -c 1-12)
}

print_head() {
    local cpu

    cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
    echo "# $gpu: checks, kernels, training steps"
    echo
    echo "- Date: $(date -u '+%Y-%m-%d %H:%M UTC'); commit $(commit), sources $(digest)"
    echo "- Command: \`$command_line\`"
    if $toy; then
        echo "- Toy sizes: the times mean nothing"
    else
        echo "- GPU: $(query_gpu name,memory.total,driver_version,clocks.max.sm,power.limit)"
    fi
    echo "- Toolkit: $(toolkit_version); host: $cpu, $(nproc) cores, $(uname -sr)"
}

# A name that no file has yet.
results_file() {
    local folder=${OUT:-$root/bench/results} name n=

    if $toy && [ -z "${OUT:-}" ]; then folder=$build; fi
    mkdir -p "$folder"
    name=$folder/gpu_$(tr 'A-Z ' 'a-z-' <<<"$gpu" | tr -cd 'a-z0-9-')_$(date -u +%Y-%m-%d)
    while [ -e "$name${n:+-$n}.md" ]; do n=$((${n:-1} + 1)); done
    echo "$name${n:+-$n}.md"
}

# ---- the parts ----

# start_check NAME [FLAG...]: beside the others, if there is such a program.
start_check() {
    if [ ! -x "$programs/$1" ]; then return; fi
    timeout $check_seconds "$programs/$1" "${@:2}" >"$logs/$1" 2>&1 &
    checks+=("$1:$!")
}

# Each counts its cases in its last line; failures are shown.
run_checks() {
    local checks=() check log status

    printf '\n## Checks\n\n'
    start_check test_cuda_ops
    start_check test_attention
    if $toy; then start_check check_step --toy; else start_check check_step; fi
    for check in "${checks[@]}"; do
        log=$logs/${check%:*}
        status=0
        wait "${check#*:}" || status=$?
        echo "- ${check%:*}: $(tail -n 1 "$log")$([ $status -eq 0 ] || echo "; exit code $status")"
        if [ $status -ne 0 ]; then
            n_failed=$((n_failed + 1))
            grep -B 5 FAILED "$log" | head -n 60 | sed 's/^/      /' || true
        fi
    done
}

run_part() {    # TITLE PROGRAM
    printf '\n## %s\n\n' "$1"
    timeout $part_seconds "$programs/$2" "${flags[@]}" 2>&1 || {
        echo "$2: exit code $?"
        n_failed=$((n_failed + 1))
    }
}

run_all() {
    local start=$SECONDS

    print_head
    if is_wanted checks; then run_checks; fi
    if is_wanted kernels; then run_part "Kernels" kernels; fi
    if is_wanted steps; then run_part "Training steps" steps; fi
    printf '\n%d of the parts above failed; %d s.\n' $n_failed $((SECONDS - start))
}

if [ -z "$programs" ]; then
    build_all
    programs=$build
fi
[ "$only" != build ] || exit 0
gpu=emulated
if ! $toy; then gpu=$(query_gpu name) && gpu=${gpu:-unknown}; fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
n_failed=0
results=$(results_file)
# A pipe would lose n_failed.
exec 3> >(tee "$results")
tee=$!
run_all >&3 2>&1
exec 3>&-
wait $tee
echo "results: $results"
[ $n_failed -eq 0 ]
