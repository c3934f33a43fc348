#!/bin/sh
# compile.sh REPORT COMMAND... - compiles; what the compiler says, ptxas's account of registers above
# all, goes to REPORT, and is shown only if it fails.
report=$1
shift
if ! "$@" >"$report" 2>&1; then
    cat "$report" >&2
    exit 1
fi
grep -v "^ptxas info\|bytes stack frame\|^$" "$report" >&2 || true
