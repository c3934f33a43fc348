#!/usr/bin/env bash
# fuzz.sh [SECONDS [NAME...]] - feeds the readers of files with hostile input of libFuzzer's making,
# under AddressSanitizer and UndefinedBehaviorSanitizer: SECONDS (default 60) for each harness in
# test/fuzz (default: all), two at a time. What breaks one is kept in build-fuzz/findings; put it
# into test/fuzz/corpus/NAME with the repair. The last line is "N passed, N failed".
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] ||
    { echo "fuzz.sh: SECONDS is '$seconds', expected a whole number from 1" >&2; exit 2; }
shift $(($# > 0))
names=${*:-checkpoint config safetensors tokenizer tokens}
for name in $names; do
    [ -f "$root/test/fuzz/fuzz_$name.c" ] || { echo "fuzz.sh: no harness '$name'" >&2; exit 2; }
done
build=$root/build-fuzz
findings=$build/findings
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

# New inputs of interest go to the first folder, the second one is only read.
fuzz() {
    local name=$1
    mkdir "$work/$name"
    "$build/test/fuzz_$name" -max_total_time="$seconds" -max_len=8192 -print_final_stats=1 \
        -timeout=60 -report_slow_units=60 -artifact_prefix="$findings/$name-" "$work/$name" \
        "$root/test/fuzz/corpus/$name" >"$work/$name.log" 2>&1 && touch "$work/$name.ok"
}

report() {
    local log=$work/$1.log
    awk -v name="$1" '
        /^stat::number_of_executed_units/ { runs = $2 }
        /^stat::average_exec_per_sec/ { speed = $2 }
        match($0, /cov: [0-9]+/) { coverage = substr($0, RSTART + 5, RLENGTH - 5) }
        END { printf "%-12s %9d inputs, %6d a second, %5d edges\n", name, runs, speed, coverage }' \
        "$log"
    if [ -f "$work/$1.ok" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        grep -vE '^#[0-9]' "$log" | tail -60
        echo "FAILED $1"
    fi
}

# OpenMP's library because the sources are those of the whole program.
install_packages $packages clang libclang-rt-dev libomp-dev
mkdir -p "$findings"
CC=clang targets=fuzzers build_in "$build" -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false \
    -Doptimization=1 -Dgpu=disabled -Demulator=disabled

say "fuzzing, $seconds seconds each: $names"
for name in $names; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
    fuzz "$name" &
done
wait

passed=0
failed=0
for name in $names; do report "$name"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
