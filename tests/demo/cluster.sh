# The control plane, in the namespace `remote`, and what kubelets would do: sandboxes and the status of pods.
# shellcheck shell=bash disable=SC2034,SC2154

kube_bin=$repository/tests/tools/kube/bin
plane=$work/plane
api_server=192.168.10.2
agent_kubeconfig=$plane/agent.kubeconfig

# Neither the user's settings nor what kubectl keeps of another cluster at the same address.
kubectl() {
    in_ns remote env KUBERC=off "$kube_bin/kubectl" --kubeconfig "$plane/admin.kubeconfig" --cache-dir "$plane/cache" "$@"
}

# The API server makes its certificate itself, and nobody else reaches its network: tokens need no secret.
start_control_plane() {
    mkdir -p "$plane"
    openssl ecparam -name prime256v1 -genkey -noout -out "$plane/accounts.key"
    cat >"$plane/tokens.csv" <<CSV
admin,admin,1,system:masters
controllers,system:kube-controller-manager,2
scheduler,system:kube-scheduler,3
edge,edge,4,balancing:external-hosts
CSV
    local user etcd=http://127.0.0.1:2379
    for user in admin controllers scheduler; do
        kubeconfig $user $user default
    done
    serve etcd --data-dir "$plane/etcd" --unsafe-no-fsync --heartbeat-interval 10 --election-timeout 100 \
        --listen-client-urls $etcd --advertise-client-urls $etcd
    # Nodes get no taint, for no kubelet would take it away.
    serve kube-apiserver --etcd-servers $etcd --bind-address $api_server --service-cluster-ip-range 10.96.0.0/16 \
        --cert-dir "$plane" --token-auth-file "$plane/tokens.csv" --authorization-mode RBAC \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$plane/accounts.key" \
        --service-account-signing-key-file "$plane/accounts.key" --disable-admission-plugins TaintNodesByCondition
    api_server_pid=$!
    until_true "the API server" eval 'kubectl get --raw /readyz >/dev/null 2>&1'
    # Nor does a kubelet renew the lease of its node.
    serve kube-controller-manager --kubeconfig "$plane/controllers.kubeconfig" --leader-elect=false --secure-port 0 \
        --controllers='*,-node-lifecycle-controller' --use-service-account-credentials \
        --service-account-private-key-file "$plane/accounts.key" --root-ca-file "$plane/apiserver.crt"
    serve kube-scheduler --kubeconfig "$plane/scheduler.kubeconfig" --leader-elect=false --secure-port 0
    kubectl wait --for=create serviceaccount/default --timeout=30s >/dev/null
}

serve() { # PROGRAM ARGUMENT...
    nsenter --net=/run/netns/remote -- "$kube_bin/$1" "${@:2}" >"$plane/$1.log" 2>&1 &
}

kubeconfig() { # USER TOKEN NAMESPACE
    cat >"$plane/$1.kubeconfig" <<JSON
{
  "apiVersion": "v1", "kind": "Config", "current-context": "demo",
  "clusters": [{"name": "demo", "cluster": {
    "server": "https://$api_server:6443", "certificate-authority": "$plane/apiserver.crt"}}],
  "users": [{"name": "$1", "user": {"token": "$2"}}],
  "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "$1", "namespace": "$3"}}]
}
JSON
}

pod_on() { # NODE NAMESPACE LABEL: the pod that is to run there, if any
    kubectl get pods -n "$2" -l "$3" --field-selector "spec.nodeName=$1" -o json |
        jq -r '[.items[].metadata | select(.deletionTimestamp == null)][0].name // empty'
}

# Waits for the scheduler. Sets pod and pod_uid.
await_pod() { # NODE NAMESPACE LABEL
    until_true "the pod $3 on $1" eval "[ -n \"\$(pod_on $1 $2 $3)\" ]"
    pod=$(pod_on "$@")
    pod_uid=$(kubectl get pod -n "$2" "$pod" -o 'jsonpath={.metadata.uid}')
}

report_pod() { # NAMESPACE POD READY ADDRESS NODE-ADDRESS
    kubectl patch pod -n "$1" "$2" --subresource=status -p "{\"status\": {
        \"phase\": \"Running\", \"podIP\": \"$4\", \"podIPs\": [{\"ip\": \"$4\"}],
        \"hostIP\": \"$5\", \"hostIPs\": [{\"ip\": \"$5\"}],
        \"conditions\": [{\"type\": \"Ready\", \"status\": \"$3\"}],
        \"containerStatuses\": [{\"name\": \"main\", \"image\": \"\", \"imageID\": \"\", \"restartCount\": 0,
            \"ready\": ${3,,}, \"state\": {\"running\": {}}}]}}" >/dev/null
}

# The sandbox of a deleted pod is taken down, then the pod is reported gone.
stop_pod() { # NAMESPACE POD UID NETNS
    cni del "$4" "$3" "$1" "$2"
    ip netns pids "$4" | xargs -r kill
    ip netns del "$4"
    kubectl delete --raw "/api/v1/namespaces/$1/pods/$2?gracePeriodSeconds=0" >/dev/null
}

# The agent with nothing but the rights of its ServiceAccount.
start_controller() {
    kubeconfig controller "$(kubectl create token -n balancing-system balancing-controller)" balancing-system
    show host balancing-agent controller --kubeconfig "$plane/controller.kubeconfig"
    nsenter --net=/run/netns/remote -- "$bin/balancing-agent" controller --kubeconfig "$plane/controller.kubeconfig" \
        --name demo >>"$work/controller.log" 2>&1 &
}
start_kube_agent() {
    kubeconfig agent "$(kubectl create token -n balancing-system balancing-agent \
        --bound-object-kind Node --bound-object-name demo-node)" balancing-system
    show host balancing-agent --kubeconfig "$agent_kubeconfig" --node-name demo-node
    nsenter --net=/run/netns/node -- "$bin/balancing-agent" --kubeconfig "$agent_kubeconfig" --node-name demo-node \
        --bpffs "$work/bpf" --run-dir "$work/agent" --cgroup-root "$DEMO_CGROUP" >>"$work/agent.log" 2>&1 &
    agent_pid=$!
    until_true "the agent to be ready" agent_is_ready
}
