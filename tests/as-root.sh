#!/usr/bin/env bash
# Runs a command as root.
#
# cargo itself stays the caller, so that target/ keeps its owner; what cargo runs (tests, benches) is
# root's by way of cargo's runner setting. Root needs nothing of this and runs the command as it is.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
    exec "$@"
fi
command -v sudo >/dev/null || {
    echo "$1: needs root, and there is no sudo" >&2
    exit 1
}
privileged=(sudo -E env "PATH=$PATH" "HOME=$HOME")
if [ "$1" != cargo ]; then
    exec "${privileged[@]}" "$@"
fi
triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${triple}_RUNNER=${privileged[*]}"
exec "$@"
