# What makes a machine a node: its settings, and how it comes up. Sourced.
# shellcheck shell=bash disable=SC2154

# The first chained plugin list of node N, as an administrator has it before us. flannel's own plugin would call `bridge`
# in the same way, for packets that carry its VXLAN header later.
conflist() {
    cat <<C
{"cniVersion": "1.0.0", "name": "e2e", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": $([ "$cni" = flannel ] && echo 1450 || echo 1500),
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
  {"type": "bandwidth", "capabilities": {"bandwidth": true}}
]}
C
}

# seed N NAME UNITS: the tar with the settings of that machine.
seed() {
    local number=$1 name=$2 units=$3 directory="$work/seed$1" peer peers=''
    mkdir -p "$directory/etc/e2e" "$directory/etc/cni/net.d"
    for peer in $(seq "$nodes"); do
        # A host outside has no way to pods.
        [ "$peer" = "$number" ] || [ -z "$units" ] || [ "$cni" = flannel ] || peers+="10.244.$peer.0/24@$(address_of "$peer") "
    done
    # Half of the nodes have kube-proxy in its older mode.
    cat >"$directory/etc/e2e/env" <<E
NAME=$name
ADDRESS=$(address_of "$number")
GATEWAY=$gateway
PEERS="$peers"
UNITS="$units"
RUNTIME=$runtime
PROXY_MODE=$([ $((number % 2)) = 1 ] && echo nftables || echo iptables)
E
    if [ -n "$units" ]; then
        cp "$work/pki/ca.crt" "$work/pki/kube-proxy.kubeconfig" "$directory/etc/e2e/"
        cp "$work/pki/$name.crt" "$directory/etc/e2e/node.crt"
        cp "$work/pki/$name.key" "$directory/etc/e2e/node.key"
        cp "$work/pki/$name.kubeconfig" "$directory/etc/e2e/kubelet.kubeconfig"
        cp "$here/manifests/kubelet.yaml" "$directory/etc/e2e/"
        conflist "$number" >"$directory/etc/cni/net.d/10-$cni.conflist"
        cp "$work/pki/flannel.kubeconfig" "$directory/etc/e2e/"
        echo '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}' >"$directory/etc/e2e/flannel.json"
    fi
    tar -C "$directory" --owner=0 --group=0 -cf "$work/seed$number.tar" .
    truncate -s %512 "$work/seed$number.tar"
    rm -r "$directory"
}

start_node() {
    seed "$1" "node$1" "containerd kubelet kube-proxy$([ "$cni" != flannel ] || echo " flanneld")"
    start_machine "$1" 1536
}

start_outside_host() {
    seed "$1" "outside$1" ""
    start_machine "$1" 640
}

node_ready() { equal True kubectl get node "node$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'; }
