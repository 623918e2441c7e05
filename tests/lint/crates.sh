#!/usr/bin/env bash
# Dependencies between our crates point one way, and what must stay small pulls no runtime, no API client, no TLS.
# The picture is in docs/architecture.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

failed=0

# depends CRATE: everything that it is built from, one name a line; tests may use more.
depends() { cargo tree --locked --prefix none --edges normal,build --format '{p}' -p "$1" | awk 'NR > 1 { print $1 }' | sort -u; }

# without CRATE WHY PATTERN: none of its dependencies has such a name.
without() {
    local found
    if found=$(depends "$1" | grep -xE "$3" | paste -sd ' '); then
        echo "$1 must not depend on $found: $2" >&2
        failed=1
    fi
}

small='tokio|kube|kube-.*|k8s-openapi|rustls|hyper|hyper-.*|ring|axum|tower'
for crate in balancing-core balancing-ctl balancing-cni balancing-cni-install balancing-dataplane; do
    without "$crate" 'it starts no runtime and speaks to no API server' "$small"
done
without balancing-core 'it is pure' 'aya|aya-.*|nix|libc|notify|balancing-(dataplane|kube|tunnel|agent|ctl)'
without balancing-abi 'everything else depends on it' '.*'
without balancing-dataplane 'it decides nothing' 'balancing-(core|kube|tunnel|agent|ctl)'
without balancing-kube 'it knows no kernel' 'aya|aya-.*|balancing-(dataplane|tunnel|agent|ctl)'
without balancing-ctl 'commands need no agent' 'balancing-(kube|tunnel|agent)'
without balancing-cni 'a pod must not wait for what it does not need' 'aya|aya-.*|clap|balancing-(core|cni-install|kube|tunnel|agent|ctl)'
without balancing-cni-install 'it knows files, not our objects nor the kernel' 'aya|aya-.*|nix|notify|clap|balancing-.*'
without balancing-tunnel 'it knows plain words, not our objects' 'kube|kube-.*|k8s-openapi|rustls|hyper|hyper-.*|aya|aya-.*|balancing-.*'
exit "$failed"
