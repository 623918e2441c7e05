#!/usr/bin/env bash
# Every lint of the project. All run; the exit status tells whether one failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

failed=()
step() {
    echo "lint: $*"
    "$@" || failed+=("$*")
}

step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
step tests/lint/chart.sh
step tests/lint/cni-cases.sh
step tests/lint/crates.sh
step tests/lint/install.sh
step tests/lint/manifests.sh
step tests/lint/unsafe.sh
if command -v shellcheck >/dev/null; then
    step shellcheck --external-sources .ci/run tests/*.sh tests/demo/*.sh tests/setup/*.sh tests/lint/*.sh tests/cluster/*.sh tests/cluster/*/*.sh install/*.sh install/*/*.sh
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'lint failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
