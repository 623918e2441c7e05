#!/usr/bin/env bash
# Every crate takes the lints of the workspace: cargo does not ask for it, and a crate that forgets the
# two lines is not linted by our rules at all.
set -euo pipefail
cd "$(dirname "$0")/../.."

status=0
while read -r manifest; do
    if ! awk '/^\[/ { lints = ($0 == "[lints]") } lints && /^workspace *= *true/ { found = 1 } END { exit !found }' "$manifest"; then
        echo "$manifest: add [lints] with workspace = true" >&2
        status=1
    fi
done < <(find . -name target -prune -o -mindepth 2 -name Cargo.toml -print)
exit $status
