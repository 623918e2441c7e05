# The kubelet restarts, containerd restarts, a node loses its power: what was redirected stays so; after a boot, pods that
# started before the agent are hooked by it.
# shellcheck shell=bash disable=SC2154

booted_since() {
    local id
    id=$(on 1 cat /proc/sys/kernel/random/boot_id) && [ -n "$id" ] && [ "$id" != "$1" ]
}
# The kubelet of this boot has written the node's state.
heard_since() { kubectl get node node1 -o json | jq -e --arg since "$1" '.status.conditions[] | select(.type == "Ready") | .status == "True" and .lastHeartbeatTime > $since' >/dev/null; }
restarted() { equal "$2" kubectl get pod "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }

prove() {
    local boot kind count since number all=()
    apply_policies
    since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    traffic
    on 1 systemctl restart kubelet
    on "$nodes" systemctl restart containerd
    within 120 heard_since "$since"
    within 120 on "$nodes" ctr version >/dev/null
    end_loads
    say "kubelet and containerd were restarted under load"
    asks m1 169.254.169.254:80 metadata-on-1
    asks "m$nodes" 169.254.169.254:80 "metadata-on-$nodes"

    boot=$(on 1 cat /proc/sys/kernel/random/boot_id)
    declare -A count
    for kind in m g w d; do count[$kind]=$(kubectl get pod "${kind}1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'); done
    since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    # As after a loss of power.
    on 1 'sync; echo b >/proc/sysrq-trigger' || true
    inside ssh -q -o "ControlPath=$work/ssh-1" -O exit e2e 2>/dev/null || true
    within 180 booted_since "$boot"
    within 180 heard_since "$since"
    for kind in m g w d; do within 180 restarted "${kind}1" $((count[$kind] + 1)); done
    kubectl -n balancing-system rollout status daemonset/balancing-agent --timeout 3m >/dev/null
    within 60 asks m1 169.254.169.254:80 metadata-on-1
    for number in $(seq "$nodes"); do all+=("web-on-$number"); done
    within 60 asks g1 10.99.0.1:80 "${all[@]}"
    balancingctl 1 status
    delete_policies
}
