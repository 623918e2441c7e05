#!/usr/bin/env bash
# The node-local DNS story on a real control plane: etcd, kube-apiserver, controller-manager, scheduler.
# Started by demo.sh in namespaces of its own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/demo/node.sh
. "$here/node.sh"
# shellcheck source=tests/demo/cluster.sh
. "$here/cluster.sh"

DNS=(kdig +short +timeout=2 @10.96.0.10 whoami.demo TXT)
answers() { [[ $(client "${DNS[@]}" 2>/dev/null) == *"$1"* ]]; }
twenty() { # shellcheck disable=SC2016
    client bash -c 'while [ "${EPOCHREALTIME#*.}" -gt 100000 ]; do :; done
        for i in $(seq 20); do kdig +short +timeout=2 @10.96.0.10 whoami.demo TXT; done | sort | uniq -c'
}

private_mounts
mkdir -p "$DEMO_CGROUP/host"
make_remote
write_conflist

title "A cluster: etcd, kube-apiserver, controller-manager and scheduler, with our CRDs and the rights of an agent"
start_control_plane
run "" kubectl version
run "" kubectl apply -f "$repository/install/crds"
run "" kubectl wait --for=condition=Established crd/localredirectpolicies.balancing.elf.io --timeout=30s
run "" kubectl apply -f "$repository/install/rbac/node.yaml"

title "The cluster's DNS is a Service; a DaemonSet brings a DNS cache to every node"
run "" kubectl apply -f "$here/kube/dns.yaml"
run "" kubectl apply -f "$here/kube/node.yaml"
kubectl patch node demo-node --subresource=status -p "$(cat "$here/kube/node-status.json")" >/dev/null
until_true "the DaemonSet's pod" pod_is_bound kube-system k8s-app=node-local-dns
start_pod kube-system "$(pod_named kube-system k8s-app=node-local-dns)" cache
local_uid=$pod_uid
serve_dns cache "node-local cache on this node"
run "" kubectl apply -f "$here/kube/client.yaml"
until_true "the client" pod_is_bound default app=client
start_pod default client client
client_uid=$pod_uid
run "" kubectl get pods -A -o wide
until_true "the cluster's DNS" answers "cluster DNS"

title "Before: the client's question goes to the cluster's DNS on another node"
run client "${DNS[@]}"

title "The agent starts under its own ServiceAccount and is elected; the policy is applied"
start_kube_agent
run "" balancingctl status
run "" kubectl apply --validate=strict -f "$here/kube/policy.yaml"
run "" kubectl wait --for=condition=Accepted lr/node-local-dns --timeout=10s
run "" kubectl wait --for=condition=Programmed lr/node-local-dns --timeout=10s
run "" kubectl get lr
until_true "the redirect" answers "node-local cache"

title "After: the same question is answered on this node, for pods and for the host"
run client "${DNS[@]}"
run host "${DNS[@]}"
run "" balancingctl frontends

title "A rule is broken: the API server says which"
run "" refused "$here/kube/broken.yaml"

title "A younger policy wants the same frontend: its status names the winner"
run "" kubectl apply -f "$here/kube/rival.yaml"
run "" kubectl wait --for=condition=Conflicted lr/rival --timeout=10s
run "" kubectl get lr
run "" kubectl get lr rival -o 'jsonpath={.status.conditions[?(@.type=="Conflicted")].message}{"\n"}'
run "" kubectl delete lr rival

title "The DNS cache is upgraded: while its pod is away, questions go to the cluster's DNS"
stop_pod kube-system "$(pod_named kube-system k8s-app=node-local-dns)" cache
until_true "the fall-back" answers "cluster DNS"
run client "${DNS[@]}"
until_true "the DaemonSet's new pod" pod_is_bound kube-system k8s-app=node-local-dns
start_pod kube-system "$(pod_named kube-system k8s-app=node-local-dns)" cache
serve_dns cache "node-local cache on this node, upgraded"
until_true "the new pod" answers "upgraded"
run client "${DNS[@]}"

title "QoS: 5 local answers a second, the rest from the cluster"
run "" kubectl patch lr node-local-dns --type=merge -p '{"spec":{"qosLimit":5}}'
until_true "the limit" eval 'balancingctl explain 10.96.0.10:53/udp | grep -q "5"'
run "" twenty
run "" kubectl patch lr node-local-dns --type=json -p '[{"op":"remove","path":"/spec/qosLimit"}]'
until_true "the end of the limit" eval '! balancingctl explain 10.96.0.10:53/udp | grep -q "5 "'

title "The API server is gone, then the agent is killed: questions are answered on this node all the same"
stop_control_plane
until_true "the agent to notice" eval '! balancingctl status -o json | jq -e ".source | test(\"not reachable\")" >/dev/null || true'
run client "${DNS[@]}"
kill -KILL "$agent_pid"
wait "$agent_pid" 2>/dev/null || true
run client "${DNS[@]}"

title "Cleanup: one command, and questions go where they are asked"
"$bin/balancing-agent" cleanup --bpffs "$work/bpf" --run-dir "$work/agent"
run client "${DNS[@]}"
printf '\nDone. Nothing is left on this machine.\n'
