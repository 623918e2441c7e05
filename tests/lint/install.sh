#!/usr/bin/env bash
# The systemd unit is one that systemd takes, with the program where it says.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v systemd-analyze >/dev/null; then
    echo "no systemd-analyze: units are not verified"
    exit 0
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# A program that is not installed is no fault of the unit.
sed 's|^ExecStart=/usr/local/bin/balancing-agent|ExecStart=/bin/true|' install/systemd/balancing-agent.service >"$root/balancing-agent.service"
found=$(systemd-analyze verify --man=no --recursive-errors=no "$root/balancing-agent.service" 2>&1) || true
if [ -n "$found" ]; then
    printf '%s\n' "$found" >&2
    exit 1
fi
