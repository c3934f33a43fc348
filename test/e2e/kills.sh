#!/usr/bin/env bash
# kills.sh - a short run of bench/kills.sh of each kind: however often a run is killed, it stays the same.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
time_limit=300

kills() {           # [FLAG...]
    expect_exit 0 "1 passed, 0 failed" -- bash "$here/../../bench/kills.sh" "$programs" --times 10 "$@"
}

run_case kills --signal KILL
run_case kills --signal TERM
run_case kills --change-workers
finish
