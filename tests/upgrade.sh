#!/usr/bin/env bash
# Upgrades from the agent of an earlier commit to this one under load: tests/upgrade.sh COMMIT
set -euo pipefail
cd "$(dirname "$0")/.."

commit=${1:?give the commit to upgrade from}
tree=$(mktemp -d)
trap 'git worktree remove --force "$tree"' EXIT
git worktree add --detach "$tree" "$commit"
(cd "$tree" && cargo build --locked --workspace)
export BALANCING_EARLIER="$tree/target/debug/balancing-agent"
tests/as-root.sh cargo test --locked -p balancing-tests --test agent_changes -- --ignored --nocapture earlier_build
