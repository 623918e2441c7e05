# The control plane, and what a kubelet would do: sandboxes for bound pods, and their status.
# shellcheck shell=bash disable=SC2154

kube_bin=$repository/tests/tools/kube/bin
plane=$work/plane

kubectl() { in_ns node "$kube_bin/kubectl" --kubeconfig "$plane/admin.kubeconfig" "$@"; }

# Its data and keys are in the memory of the demo's own /run.
start_control_plane() {
    mkdir -p "$plane"
    in_ns node env TMPDIR="$plane" "${BALANCING_CONTROL_PLANE:-$repository/target/debug/control_plane}" "$plane" \
        >"$plane/log" 2>&1 &
    plane_pid=$!
    until_true "the control plane (see $plane/log)" test -e "$plane/ready"
}

stop_control_plane() {
    kill -TERM "$plane_pid"
    wait "$plane_pid" 2>/dev/null || true
}

pod_named() { # NAMESPACE LABEL: the newest pod that is not going away
    kubectl get pods -n "$1" -l "$2" -o json | jq -r '[.items[] | select(.metadata.deletionTimestamp == null)]
        | sort_by(.metadata.creationTimestamp) | last | .metadata.name // empty'
}

pod_is_bound() { # NAMESPACE LABEL
    local name
    name=$(pod_named "$1" "$2")
    [ -n "$name" ] && [ -n "$(kubectl get pod -n "$1" "$name" -o 'jsonpath={.spec.nodeName}')" ]
}

# start_pod NAMESPACE POD NETNS: cgroup, network namespace, CNI chain, then the status. Sets pod_uid.
start_pod() {
    pod_uid=$(kubectl get pod -n "$1" "$2" -o 'jsonpath={.metadata.uid}')
    make_pod "$3" "$pod_uid" "$1" "$2"
    kubectl patch pod -n "$1" "$2" --subresource=status -p "{\"status\": {
        \"phase\": \"Running\", \"podIP\": \"$(pod_ip "$3")\", \"podIPs\": [{\"ip\": \"$(pod_ip "$3")\"}],
        \"hostIP\": \"192.168.10.1\", \"hostIPs\": [{\"ip\": \"192.168.10.1\"}],
        \"conditions\": [{\"type\": \"Ready\", \"status\": \"True\"}]}}" >/dev/null
}

# stop_pod NAMESPACE POD NETNS: asked to go, stopped, and then reported gone, as a kubelet does it.
stop_pod() {
    run "" kubectl delete pod -n "$1" "$2" --wait=false
    local uid
    uid=$(kubectl get pod -n "$1" "$2" -o 'jsonpath={.metadata.uid}')
    cni del "$3" "$uid" "$1" "$2"
    ip netns pids "$3" | xargs -r kill
    ip netns del "$3"
    kubectl delete pod -n "$1" "$2" --grace-period=0 --force >/dev/null 2>&1
}

# The agent with nothing but the rights of its ServiceAccount.
start_kube_agent() {
    local server token
    server=$(kubectl config view -o 'jsonpath={.clusters[0].cluster.server}')
    token=$(kubectl create token -n balancing-system balancing-agent)
    kubectl config view --raw --flatten -o json |
        jq --arg token "$token" '.users = [{name: "agent", user: {token: $token}}]
            | .contexts = [{name: "agent", context: {cluster: .clusters[0].name, user: "agent", namespace: "balancing-system"}}]
            | ."current-context" = "agent"' >"$plane/agent.kubeconfig"
    echo "kubeconfig of system:serviceaccount:balancing-system:balancing-agent for $server"
    nsenter --net=/run/netns/node -- "$bin/balancing-agent" --kubeconfig "$plane/agent.kubeconfig" --node-name demo-node \
        --bpffs "$work/bpf" --run-dir "$work/agent" --cgroup-root "$DEMO_CGROUP" >>"$work/agent.log" 2>&1 &
    # shellcheck disable=SC2034
    agent_pid=$!
    until_true "the agent to be ready" agent_is_ready
}

# refused FILE: shows what the API server says about an object that it must not accept
refused() {
    if kubectl apply -f "$1" 2>&1; then
        echo "demo: the API server accepted $1" >&2
        return 1
    fi
}
