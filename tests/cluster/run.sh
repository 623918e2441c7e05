#!/usr/bin/env bash
# A Kubernetes cluster of virtual machines on this one, the chart on it as docs/install.md says, and the cases.
#
#   tests/cluster/run.sh [CASE...]              cases: the files of tests/cluster/cases; those with a number by default
#   tests/cluster/run.sh again DIRECTORY CASE...    on a cluster that KEEP=1 has left
#   tests/cluster/run.sh end DIRECTORY              ends that
#
# Parameters, by environment:
#   NODES=2         nodes, the control plane not among them
#   KERNEL=6.12     5.15 of Ubuntu jammy; 6.1, 6.12 or newest of Debian bookworm, trixie or its backports
#   RUNTIME=1.7     1.7 or 2: of containerd
#   CNI=bridge      bridge, with routes between the nodes, or flannel, with its VXLAN backend
#   KEEP=1          leaves everything running and says how to look at it and how to end it
#   MINUTES=30      how long the soak takes
#
# Wants root, and what `tests/setup.sh kube go helm node coredns cluster image` brings, `containerd` for containerd 2 and
# `flannel` for flannel; `make e2e` calls that. Everything
# lies in one directory and one network namespace, which go with the run, also where it fails.
set -euo pipefail

# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"
for part in pki control-plane machines disk nodes cases load manifests/pods manifests/policies; do
    # shellcheck source=/dev/null
    source "$here/$part.sh"
done

keep() {
    cat <<K
left running, in $work:
    nsenter --net=/run/netns/$netns $tools/kube/bin/kubectl --kubeconfig $work/pki/admin.kubeconfig get pods -A
    nsenter --net=/run/netns/$netns ssh -i $work/pki/ssh root@$(address_of 1)
    tests/cluster/run.sh again $work CASE...
    tests/cluster/run.sh end $work
K
}

image_digest() { cat "$repository"/target/cluster/image/*.digest; }

# Of a new cluster; one that was left knows its own.
settle_parameters() {
    nodes=${NODES:-2}
    kernel_version=${KERNEL:-6.12}
    runtime=${RUNTIME:-1.7}
    cni=${CNI:-bridge}
    digest=$(image_digest) || die "no image: make e2e builds it"
    declare -p nodes kernel_version runtime cni digest | sed 's/^declare -- //' >"$work/parameters"
}

# find_run DIRECTORY: what run.sh has left there.
find_run() {
    work=$(realpath "$1")
    [[ $(basename "$work") = balancing-e2e.?????? ]] && [ -d "$work/pids" ] || die "$1 is no directory that KEEP=1 has left"
}

prepare() {
    create_network "$((nodes + 1))"
    make_keys "$nodes"
    make_root "$kernel_version"
    add_node
    finish_disk
    say "the disk is made: Debian trixie, kernel $kernel_version, containerd $runtime, $cni"
    for number in $(seq "$nodes"); do start_node "$number"; done
    start_control_plane "$nodes"
    say "the control plane answers"
    for number in $(seq "$nodes"); do within 300 node_ready "$number"; done
    say "$nodes nodes are Ready: $(on 1 uname -r), $(kubectl get nodes -o 'jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion} {.items[0].status.nodeInfo.kubeletVersion}')"
}

case ${1:-} in
    again)
        find_run "${2:?the directory of the run}"
        # shellcheck source=/dev/null
        source "$work/parameters"
        [ "$digest" = "$(image_digest)" ] || die "the image was built again since: end that run and begin a new one"
        shift 2
        check_cases "$@"
        KEEP=1
        enter_run
        ;;
    end)
        find_run "${2:?the directory of the run}"
        netns=$(basename "$work" | tr . -)
        tear_down
        exit
        ;;
    *)
        check_cases "$@"
        begin_run
        settle_parameters
        prepare
        ;;
esac
run_cases "$@"
