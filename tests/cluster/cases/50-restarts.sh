# The kubelet restarts, containerd restarts, a node boots: what was redirected stays so, and after a boot pods are
# redirected from their first connection on.
# shellcheck shell=bash disable=SC2154

booted_since() { [ "$(on 1 cat /proc/sys/kernel/random/boot_id)" != "$1" ]; }
restarted() { equal "$2" kubectl get pod "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }

prove() {
    local boot kind count
    apply_policies
    traffic 30
    on 1 systemctl restart kubelet
    on 2 systemctl restart containerd
    end_loads
    say "kubelet and containerd were restarted under load"
    asks m1 169.254.169.254:80 metadata-on-1
    asks m2 169.254.169.254:80 metadata-on-2

    boot=$(on 1 cat /proc/sys/kernel/random/boot_id)
    declare -A count
    for kind in m g w d; do count[$kind]=$(kubectl get pod "${kind}1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'); done
    # As after a loss of power.
    on 1 'sync; echo b >/proc/sysrq-trigger' || true
    inside ssh -q -o "ControlPath=$work/ssh-1" -O exit e2e 2>/dev/null || true
    within 180 booted_since "$boot"
    within 180 node_ready 1
    for kind in m g w d; do within 180 restarted "${kind}1" $((count[$kind] + 1)); done
    kubectl -n balancing-system rollout status daemonset/balancing-agent --timeout 3m >/dev/null
    within 60 asks m1 169.254.169.254:80 metadata-on-1
    within 60 asks g1 10.99.0.1:80 web-on-1 web-on-2
    balancingctl 1 status
    delete_policies
}
