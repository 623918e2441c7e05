#!/usr/bin/env bash
# Pods of an overlay, reached from a host outside the cluster: two nodes and the host, each in a network of its own.
# Started by demo.sh in namespaces of its own.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/demo/node.sh
. "$here/node.sh"
# shellcheck source=tests/demo/cluster.sh
. "$here/cluster.sh"
# shellcheck source=tests/demo/hosts.sh
. "$here/hosts.sh"

manifests=tests/demo/fabric
seed=agent/core/tests/fixtures/seeds/09-balancingpolicy-test-service-nodeproxy.yaml
web=(default app=http-redirect)
service=http://10.96.0.80/
annotations='custom-columns=NAME:.metadata.name,PROXY ADDRESS:.metadata.annotations.balancing\.elf\.io/nodeProxyIpv4'

# The Deployment's pod on a node, as its kubelet and the overlay make it. Sets pod and pod_uid.
start_web() { # NODE ADDRESS
    await_pod "$1" "${web[@]}"
    make_overlay_pod "$1" "$pod" "$2"
    serve_http "$pod" 0.0.0.0:8080 "pod $2 on $1"
    until_true "the web server" eval "in_ns $1 curl -s -m 1 -o /dev/null http://$2:8080/"
    report_pod default "$pod" True "$2" "$(underlay_of "$1")"
}
edge_gets() { [ "$(edge curl -s -m 1 $service)" = "$1" ]; }
has_no_devices() {
    local host
    for host in n1 n2 edge; do
        [[ $(ip -n $host -br link) != *balancing* ]] || return 1
    done
}
annotated() { ! kubectl get nodes -o "$annotations" | grep -q '<none>'; }
not_annotated() { [ "$(kubectl get nodes -o "$annotations" | grep -c '<none>')" = 2 ]; }

private_mounts
make_networks

title "An empty cluster: control plane, our CRDs and rights, two nodes; a web server whose pod only its node can reach"
start_control_plane
run "" kubectl apply --server-side -f install/crds
for part in node controller external external-host admission; do kubectl apply -f install/rbac/$part.yaml >/dev/null; done
kubectl wait --for=condition=Established crd --all >/dev/null
run "" kubectl apply -f $manifests/nodes.yaml -f $manifests/web.yaml
start_web n1 10.244.1.5
run "" kubectl get pods -o wide

title "Before: the host 'edge' is no member of the cluster; neither pod nor Service can be reached from there"
failing edge curl -sS -m 2 http://10.244.1.5:8080/
failing edge curl -sS -m 2 $service

title "Controller and agents start, each with credentials of its own; nothing changes on any host without a TunnelFabric"
start_controller
start_host n1 "$(node_token n1)"
start_host n2 "$(node_token n2)"
start_host edge edge --role external
run n1 balancingctl fabric
run edge balancingctl fabric
has_no_devices

title "The TunnelFabric and the ExternalHost are applied: tunnels build themselves"
run "" cat $manifests/fabric.yaml
run "" cat $manifests/edge.yaml
run "" kubectl apply -f $manifests/fabric.yaml -f $manifests/edge.yaml
until_true "the annotations" annotated
until_true "the member outside" eval 'kubectl get tn host.edge >/dev/null 2>&1'
run "" kubectl get tf,tn,tac
run "" kubectl get nodes -o "$annotations"

title "After: one BalancingPolicy, and the pod answers on edge"
run "" cat $seed
run "" kubectl apply -f $seed
run "" kubectl wait --for=condition=Programmed bl/test-service-nodeproxy --timeout=30s
until_true "the answer on edge" edge_gets "pod 10.244.1.5 on n1"
run edge curl -sS -m 2 $service
printf '\nFrom the empty cluster to this answer: %s s.\n' "$SECONDS"

title "On the wire: VXLAN between the underlay addresses, the connection inside; on the pod's side its own address"
capture edge under0 "udp port 7710" -T vxlan
capture n1 "$(pod_device "$pod")" "tcp port 8080"
edge curl -s -m 2 $service >/dev/null
run_captured

title "What an operator sees"
run "" kubectl wait --for=condition=Joined xh/edge --timeout=30s
run "" kubectl get xh
run edge balancingctl explain 10.96.0.80:80
run n1 balancingctl fabric
run edge balancingctl fabric check

title "The pod moves to n2, and edge follows"
run "" kubectl cordon n1
run "" kubectl delete pod "$pod" --wait=false
stop_overlay_pod n1 "$pod"
start_web n2 10.244.2.7
until_true "the pod on n2" edge_gets "pod 10.244.2.7 on n2"
run edge curl -sS -m 2 $service

title "The agents of n2 and edge are killed: connections go on"
crash "${agents[n2]}"
crash "${agents[edge]}"
run edge curl -sS -m 2 $service
start_host n2 "$(node_token n2)"
start_host edge edge --role external
run n2 balancingctl fabric check

title "The TunnelFabric is deleted: annotations, devices and filter go; members' objects are deleted by hand"
run "" kubectl delete -f $manifests/fabric.yaml
until_true "the devices to go" has_no_devices
until_true "the annotations to go" not_annotated
run "" kubectl get nodes -o "$annotations"
run n1 nft list tables
run "" kubectl delete xh,tn,tac --all
failing edge curl -sS -m 2 $service
printf '\nDone in %s s. Nothing is left on this machine.\n' "$SECONDS"
