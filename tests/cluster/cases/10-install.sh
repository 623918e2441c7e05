# The chart on a clean cluster, as docs/install.md says it. Pods were created before it; the plugin is put into a chain
# of bridge, portmap and bandwidth.
# shellcheck shell=bash disable=SC2154

each_node_runs_the_plugin() {
    local number
    for number in $(seq "$nodes"); do
        on "$number" grep -q balancing "/etc/cni/net.d/10-$cni.conflist" || return 1
    done
}

# pods_to_hook N: how many run there, without the node's own network and without the annotation.
pods_to_hook() {
    kubectl get pods -A --field-selector "spec.nodeName=node$1,status.phase=Running" -o json |
        jq '[.items[] | select(.spec.hostNetwork | not) | select(.metadata.annotations["balancing.elf.io/redirect"] != "disabled")] | length'
}

# Those that ran before the agent, too: each pod's cgroup has programs.
every_pod_is_hooked() {
    local number wanted
    for number in $(seq "$nodes"); do
        wanted=$(pods_to_hook "$number") && [ "$wanted" -ge 4 ] || return 1
        balancingctl "$number" status -o json | jq -e --argjson wanted "$wanted" '.ready and .plugin.inForce and .hooks.pods == $wanted' >/dev/null || return 1
    done
}

prove() {
    local number
    kubectl apply -f "$here/manifests/dns.yaml" >/dev/null
    for number in $(seq "$nodes"); do pods "$number"; done | kubectl apply -f - >/dev/null
    for number in $(seq "$nodes"); do
        for kind in m g w d; do within 240 running "$kind$number"; done
    done
    say "pods run, without us"
    helm install balancing "$repository/install/chart" --namespace balancing-system --create-namespace \
        --set image.repository="$image" --set image.tag=e2e --set balancingAgent.cni.install=true 2>&1 | grep -v level=INFO
    kubectl rollout status -n balancing-system daemonset/balancing-agent deployment/balancing-controller --timeout 5m
    within 60 each_node_runs_the_plugin
    within 60 every_pod_is_hooked
    helm test balancing -n balancing-system 2>&1 | tail -n 3
    kubectl get lr,bl -A
    balancingctl 1 status
}
