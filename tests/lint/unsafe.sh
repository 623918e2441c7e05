#!/usr/bin/env bash
# Unsafe Rust only where the kernel's interface needs it: the BPF programs, and the one module of the
# data plane that issues system calls, whose kernel tests may call what it must not offer. Also catches what `#[allow(unsafe_code)]` would let through.
set -euo pipefail
cd "$(dirname "$0")/../.."

hits=$(find . -name target -prune -o -path ./bpf/programs -prune -o -path ./bpf/dataplane/src/sys.rs -prune \
    -o -path ./bpf/dataplane/src/sys -prune \
    -o -path ./bpf/dataplane/tests -prune \
    -o -name '*.rs' -exec grep -nE '(^|[^[:alnum:]_"])unsafe +(\{|fn|impl|trait|extern)|allow\(unsafe_code' {} + |
    grep -vE '^[^:]*:[0-9]+: *//' || true)
if [ -n "$hits" ]; then
    printf '%s\n' "$hits" "unsafe code belongs into bpf/dataplane/src/sys.rs, the modules below it, or bpf/programs" >&2
    exit 1
fi
