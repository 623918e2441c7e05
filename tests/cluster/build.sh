#!/usr/bin/env bash
# What cargo builds for the machines of run.sh and kernel.sh. Wants no root: target/ keeps its owner.
#
#   tests/cluster/build.sh probe      target/cluster: the probe, with musl and with glibc
#   tests/cluster/build.sh suites     target/cluster/suites: names and executables of the suites of tests/tests
set -euo pipefail
cd "$(dirname "$0")/../.."

case ${1:-} in
    probe)
        # Its own directory: the image is built with other flags for one of the targets.
        cargo build --quiet --locked --release -p cluster-probe --target-dir target/cluster \
            --target x86_64-unknown-linux-musl --target x86_64-unknown-linux-gnu
        ;;
    suites)
        mkdir -p target/cluster
        cargo build --quiet --locked --workspace
        cargo test --quiet --locked --no-run --message-format json -p balancing-tests |
            jq -r 'select(.profile.test and .executable) | "\(.target.name) \(.executable)"' >target/cluster/suites.new
        mv target/cluster/suites.new target/cluster/suites
        ;;
    *) echo "see the head of $0" >&2 && exit 64 ;;
esac
