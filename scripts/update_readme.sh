#!/usr/bin/env bash
# update_readme.sh [TRAINER] - put what `trainer --print-options` prints into README.md, between its two
# marks. With CHECK=1 only says whether it is there already.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
trainer=${1:-$root/build/trainer}

updated=$(awk -v table="$("$trainer" --print-options)" '
    /^<!-- options -->$/        { print; print ""; print table; print ""; skip = 1 }
    /^<!-- end of options -->$/ { skip = 0 }
    !skip                       { print }
    ' "$root/README.md" | awk '/^<!-- options -->$/ && seen++ { next } { print }')
if [ "${CHECK:-}" = 1 ]; then
    [ "$updated" = "$(cat "$root/README.md")" ] && exit 0
    echo "README.md: its option table is not what trainer --print-options prints: run scripts/update_readme.sh" >&2
    exit 1
fi
printf '%s\n' "$updated" >"$root/README.md"
