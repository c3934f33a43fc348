#!/usr/bin/env bash
# test.sh - builds and runs every test: plain, under AddressSanitizer and UndefinedBehaviorSanitizer,
# the threaded ones under ThreadSanitizer, the readers of files against a fuzzer (FUZZ_SECONDS each,
# 60 unless set), and at last the quickstart as a newcomer runs it. --quick: the plain build only.
# The last line is "N passed, N failed".
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

passed=0
failed=0

# run_suite FOLDER [MESON TEST OPTION...]: count the cases of every test program in its log. A program
# that ends badly without counting a failed case counts as one.
run_suite() {
    local folder=$1 log="$1/meson-logs/testlog.txt" status=0 p f
    shift
    say "testing $(basename "$folder")"
    meson test -C "$folder" --no-rebuild --print-errorlogs "$@" || status=1
    p=$(awk '/^[0-9]+ passed, [0-9]+ failed$/ { n += $1 } END { print n + 0 }' "$log")
    f=$(awk '/^[0-9]+ passed, [0-9]+ failed$/ { n += $3 } END { print n + 0 }' "$log")
    if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    passed=$((passed + p))
    failed=$((failed + f))
    echo "$(basename "$folder"): $p passed, $f failed"
}

fuzzers() {
    local log=$root/build/fuzz.log counts
    bash "$root/scripts/fuzz.sh" "${FUZZ_SECONDS:-60}" 2>&1 | tee "$log" || true
    counts=$(tail -1 "$log")
    [[ $counts =~ ^[0-9]+\ passed,\ [0-9]+\ failed$ ]] || counts="0 passed, 1 failed"
    passed=$((passed + ${counts%% *}))
    counts=${counts#*, }
    failed=$((failed + ${counts%% *}))
}

quickstart() {
    say "quickstart"
    local log=$root/build/quickstart.log perplexity
    if ! bash "$root/scripts/quickstart.sh" >"$log" 2>&1; then
        tail -20 "$log"
        echo "FAILED quickstart.sh"
        failed=$((failed + 1))
        return
    fi
    tail -25 "$log"
    perplexity=$(sed -n 's/^done:.*(perplexity \([0-9.]*\))$/\1/p' "$log")
    if awk -v p="$perplexity" 'BEGIN { exit !(p > 0 && p < 8) }'; then
        echo "ok     quickstart.sh: validation perplexity $perplexity"
        passed=$((passed + 1))
    else
        echo "FAILED quickstart.sh: validation perplexity '$perplexity', expected below 8"
        failed=$((failed + 1))
    fi
}

install_packages
build_in "$root/build"
run_suite "$root/build"
if [ "${1:-}" != --quick ]; then
    # CUDA kernels and their host code too, on emulated GPUs. Whole runs on these, other orders of their
    # threads, the CPU kernels with other products under them, and what only starts the same programs in
    # other ways, in the plain build alone.
    build_in "$root/build-asan" -Db_sanitize=address,undefined -Doptimization=1 -Dgpu=disabled
    run_suite "$root/build-asan" --timeout-multiplier 5 --no-suite emulated --no-suite orders \
        --no-suite avx2 --no-suite whole
    build_in "$root/build-tsan" -Db_sanitize=thread -Doptimization=1 -Dgpu=disabled \
        -Demulator=disabled
    run_suite "$root/build-tsan" --suite threads --timeout-multiplier 5
    fuzzers
    quickstart
fi

echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
