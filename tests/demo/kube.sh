#!/usr/bin/env bash
# The node-local DNS story on a real control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
# Started by demo.sh in namespaces of its own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/demo/node.sh
. "$here/node.sh"
# shellcheck source=tests/demo/cluster.sh
. "$here/cluster.sh"

manifests=tests/demo/kube
cache=(kube-system k8s-app=node-local-dns)

# The DaemonSet's pod on this node, as its kubelet starts it.
start_cache() { # NAME
    await_pod demo-node "${cache[@]}"
    cache_pod=$pod cache_uid=$pod_uid
    make_pod cache "$cache_uid" kube-system "$cache_pod"
    serve_dns cache "$1"
    until_true "the cache" cache_answers
    cache_is_ready True
}
cache_answers() { in_ns node kdig +timeout=1 "@$(pod_ip cache)" whoami.demo TXT >/dev/null 2>&1; }
cache_is_ready() { report_pod kube-system "$cache_pod" "$1" "$(pod_ip cache)" 192.168.10.1; }
slices_are_gone() { [ -z "$(kubectl get endpointslices -n balancing-system -o name)" ]; }

private_mounts
mkdir -p "$DEMO_CGROUP/host"
make_remote
write_conflist

title "A cluster: etcd, kube-apiserver, kube-controller-manager and kube-scheduler; our CRDs and an agent's rights"
start_control_plane
run "" kubectl version
run "" kubectl apply --server-side -f install/crds
run "" kubectl apply -f install/rbac/node.yaml -f install/rbac/controller.yaml -f install/rbac/admission.yaml
run "" kubectl wait --for=condition=Established crd localredirectpolicies.balancing.elf.io balancingpolicies.balancing.elf.io

title "The cluster's DNS is a Service; a DaemonSet brings a DNS cache to every node"
run "" kubectl apply -f $manifests/nodes.yaml -f $manifests/dns.yaml -f $manifests/client.yaml
start_cache "node-local cache on this node"
await_pod demo-node default app=client
client_uid=$pod_uid
make_pod client "$client_uid" default "$pod"
report_pod default "$pod" True "$(pod_ip client)" 192.168.10.1
await_pod other-node "${cache[@]}"
ip -n remote addr add 10.244.2.2/32 dev lo
serve_dns remote "cache on another node" 10.244.2.2
report_pod kube-system "$pod" True 10.244.2.2 192.168.10.2
run "" kubectl rollout status -n kube-system daemonset/node-local-dns --timeout=30s
run "" kubectl get pods -A -o wide
until_true "the cluster's DNS" answers "cluster DNS" "${DNS[@]}"

title "Before: the client asks the Service, and the cluster's DNS on another node answers"
run client "${DNS[@]}"

title "Controller and agent start, each with the rights of its ServiceAccount; the policy is applied"
start_controller
start_kube_agent
run "" kubectl --kubeconfig "$agent_kubeconfig" auth whoami -o 'jsonpath={.status.userInfo.username}{"\n"}'
run "" cat $manifests/policy.yaml
run "" kubectl apply -f $manifests/policy.yaml
run "" kubectl wait --for=condition=Programmed lr/node-local-dns --timeout=30s
run "" kubectl get lr
run "" kubectl get lr node-local-dns -o \
    'jsonpath={range .status.conditions[*]}{.type}={.status}, {.reason}: {.message}{"\n"}{end}'
run "" kubectl get lease -n balancing-system
until_true "the redirect" answers "node-local cache" "${DNS[@]}"

title "After: the same question is answered on this node, for pods and for the host"
run client "${DNS[@]}"
run host "${DNS[@]}"
run "" balancingctl frontends
run "" balancingctl status

title "A policy that breaks rules is refused by the API server, which says why"
run "" cat $manifests/broken.yaml
refused kubectl apply -f $manifests/broken.yaml

title "A younger policy wants the same frontend: its status names the winner"
run "" kubectl apply -f $manifests/rival.yaml
run "" kubectl wait --for=condition=Conflicted lr/rival --timeout=30s
run "" kubectl get lr -o wide
run "" kubectl get lr rival -o 'jsonpath={.status.conditions[?(@.type=="Conflicted")].message}{"\n"}'
run "" kubectl delete lr rival

title "The cache's pod is deleted: questions go to the cluster's DNS at once, and to the new pod as soon as it is ready"
run "" kubectl delete pod -n kube-system "$cache_pod" --wait=false
until_true "the fall-back" answers "cluster DNS" "${DNS[@]}"
run client "${DNS[@]}"
stop_pod kube-system "$cache_pod" "$cache_uid" cache
start_cache "new node-local cache on this node"
until_true "the new pod" answers "new node-local cache" "${DNS[@]}"
run "" kubectl get pods -n kube-system -o wide
run client "${DNS[@]}"

title "QoS: 5 local answers a second, the rest from the cluster"
run "" kubectl patch lr node-local-dns --type=merge -p '{"spec":{"qosLimit":5}}'
until_true "the limit" limited
run "" balancingctl explain 10.96.0.10:53/udp
run "" ask_20_times_in_a_second
run "" kubectl patch lr node-local-dns --type=merge -p '{"spec":{"qosLimit":null}}'
until_true "the end of the limit" eval '! limited'

title "A second layer: a BalancingPolicy over the caches of all nodes decides while the local one is not ready"
run "" kubectl apply -f $manifests/balancing.yaml
run "" kubectl wait --for=condition=Programmed bl/dns-of-all-nodes --timeout=30s
run "" kubectl get lr,bl
until_true "the slice" eval '! slices_are_gone'
run "" kubectl get endpointslices -n balancing-system
echo "The kubelet reports that the cache on this node is not ready:"
cache_is_ready False
until_true "the other layer" answers "cache on another node" "${DNS[@]}"
run client "${DNS[@]}"
run "" balancingctl explain 10.96.0.10:53/udp
cache_is_ready True
until_true "the local cache" answers "new node-local cache" "${DNS[@]}"
echo "And that it is ready again:"
run client "${DNS[@]}"
run "" kubectl delete bl dns-of-all-nodes
until_true "the garbage collector" slices_are_gone
run "" kubectl get endpointslices -n balancing-system

title "The API server is killed, then the agent: questions are answered on this node all the same"
crash "$api_server_pid"
until_true "the agent to notice" eval 'balancingctl status -o json | jq -e ".source.problems != []" >/dev/null'
run "" balancingctl status
run client "${DNS[@]}"
crash "$agent_pid"
run client "${DNS[@]}"

title "Cleanup: one command, and questions go where they are asked"
run "" balancing-agent cleanup
run client "${DNS[@]}"
printf '\nDone in %s s. Nothing is left on this machine.\n' "$SECONDS"
