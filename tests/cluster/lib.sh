# What the scripts of the test cluster share; sourced, never run.
# shellcheck shell=bash disable=SC2034,SC2154
#
# Everything of a run lies in one directory ($work) and one network namespace ($netns): the control plane runs in the
# namespace, each node is a virtual machine on a bridge in it. Node N has the address 172.30.0.(10+N) and the pods
# 10.244.N.0/24; machines outside the cluster come after the nodes.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here="$repository/tests/cluster"
tools="$repository/tests/tools"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/balancing"
gateway=172.30.0.1
cluster_dns=10.96.0.10
registry=e2e.invalid
image="$registry/balancing"
PATH="$PATH:/usr/sbin:/sbin"

say() { echo "[$(printf '%4d' "$SECONDS") s] $*"; }

die() {
    say "$*" >&2
    exit 1
}

# begin_run: the directory and the network namespace of a run, which go with it, however it ends.
begin_run() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/balancing-e2e.XXXXXX")
    enter_run
    mkdir -p "$work/log" "$work/pids" "$cache/cluster"
}

# enter_run: in the directory $work.
enter_run() {
    netns=$(basename "$work" | tr . -)
    collected=''
    trap end_run EXIT
    trap 'exit 130' INT TERM
}

end_run() {
    local status=$?
    trap - EXIT
    # Nothing interrupts what follows.
    trap '' INT TERM
    [ "$status" = 0 ] || [ -n "$collected" ] || collect || true
    if [ -n "${KEEP:-}" ]; then keep; else tear_down; fi
    exit "$status"
}

# collect: what is known of the run, to where it outlives it.
collect() {
    collected=$(mktemp -d "${TMPDIR:-/tmp}/balancing-e2e-failed.XXXXXX")
    cp -r "$work/log" "$collected/" || true
    ! declare -F collect_cluster >/dev/null || collect_cluster "$collected"
    say "logs and states: $collected"
}

inside() { nsenter --net="/run/netns/$netns" "$@"; }
kubectl() { inside "$tools/kube/bin/kubectl" --kubeconfig "$work/pki/admin.kubeconfig" "$@"; }
helm() { inside "$tools/helm/bin/helm" --kubeconfig "$work/pki/admin.kubeconfig" "$@"; }

newest_deb() { find "$repository/target/cluster/deb" -name '*_amd64.deb' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2; }

address_of() { echo "172.30.0.$((10 + $1))"; }

# on N COMMAND...: runs it on that machine, by one kept connection; `put` gives it this one's input.
on() { put "$@" </dev/null; }

put() {
    local number=$1
    shift
    inside ssh -q -i "$work/pki/ssh" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o KexAlgorithms=curve25519-sha256 -o ConnectTimeout=20 -o ServerAliveInterval=15 \
        -o ControlMaster=auto -o ControlPersist=600 -o "ControlPath=$work/ssh-$number" \
        "root@$(address_of "$number")" -- "$@"
}

# within SECONDS COMMAND...: until it succeeds; the last attempt's output when it does not. Not for functions that rely
# on `set -e`: it means nothing in a condition.
within() {
    local end=$((SECONDS + $1)) output
    shift
    until output=$("$@" 2>&1); do
        if [ "$SECONDS" -ge "$end" ]; then
            printf '%s\nnot in time: %s\n' "$output" "$*" >&2
            return 1
        fi
        sleep 0.3
    done
}

# equal WANTED COMMAND...: whether it prints that.
equal() {
    local wanted=$1 got
    shift
    got=$("$@") || return 1
    [ "$got" = "$wanted" ] || {
        printf "%s: '%s', not '%s'\n" "$*" "$got" "$wanted" >&2
        return 1
    }
}

# in_pod NAME COMMAND...: runs it in that pod of the namespace default.
in_pod() {
    local pod=$1
    shift
    kubectl exec "$pod" -- "$@"
}

running() { equal Running kubectl get pod "$1" -o 'jsonpath={.status.phase}'; }
agent_on() { kubectl -n balancing-system get pod -l app.kubernetes.io/name=balancing-agent --field-selector "spec.nodeName=node$1" -o name; }

# balancingctl N ARGUMENTS...: that of the agent on node N.
balancingctl() {
    local number=$1
    shift
    kubectl -n balancing-system exec "$(agent_on "$number")" -c agent -- balancingctl "$@"
}
