# A host outside the cluster, a machine of its own: it joins by docs/external-hosts.md, first from the Debian package under
# systemd, then as a container, and reaches pods through the tunnel; it has no route to them.
# shellcheck shell=bash disable=SC2154

fabric() {
    cat <<P
apiVersion: balancing.elf.io/v1beta1
kind: TunnelFabric
metadata: {name: default}
spec:
  ipv4Pool: 10.211.0.0/24
---
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata: {name: web}
spec:
  frontend:
    addressMatcher: {ip: 10.99.0.9, toPorts: [{port: 80}]}
  backend:
    serviceEndpoint:
      redirectMode: nodeProxy
      endpointSelector: {matchLabels: {app: web}}
      toPorts: [{port: 20080, targetPort: 8080}]
---
apiVersion: balancing.elf.io/v1beta1
kind: ExternalHost
metadata: {name: edge-1}
spec:
  fabric: default
  serviceAccountName: host-edge-1
  underlayCIDRs: [172.30.0.0/24]
P
}

# documented WORDS: the options of docs/external-hosts.md, and the one command of it that begins so.
documented() {
    local page="$repository/docs/external-hosts.md"
    grep -q "^$1" "$page" || { echo "docs/external-hosts.md has no '$1'" && return 1; }
    sed -n "/^options=/,/\"\$/p; /^$1/p" "$page" | sed "s| balancing:[0-9][0-9.]*| $image:e2e|"
}

# joined HOST COMMAND...: what prints the fabric there.
joined() { on "$@" fabric | grep -q '^State: *member'; }
# All nodes answer through the tunnel, with full frames.
checked() { on "$@" fabric check -o json | jq -e --argjson nodes "$nodes" 'length == $nodes and all(.problem == null and .mtu != null)' >/dev/null; }
asked() { on "$1" cluster-probe http 10.99.0.9:80 40 20; }

# reaches_pods HOST BALANCINGCTL...: pods of every node answer that host.
reaches_pods() {
    local host=$1 number all=() kind
    for number in $(seq "$nodes"); do all+=("web-on-$number"); done
    within 120 joined "$@"
    within 60 checked "$@"
    on "$@" fabric check
    within 30 asks_from "$host" 10.99.0.9:80 "${all[@]}"
    say "pods answer through the tunnel"
    # What needs no tunnel: host ports and addresses. Pods of the cluster's network have no address for this host.
    within 30 asks_from "$host" 10.99.0.2:80 "${all[@]}"
    asks_from "$host" 10.99.0.3:80 address
    refused on "$host" cluster-probe http "$(kubectl get pod w1 -o 'jsonpath={.status.podIP}'):8080" 1 1
    # The proxies serve pods and nodes, too.
    for number in $(seq "$nodes"); do
        for kind in m g; do asks "$kind$number" 10.99.0.9:80 "${all[@]}"; done
        asks_from "$number" 10.99.0.9:80 "${all[@]}"
    done
    say "and pods and nodes"
}

reaches_nothing() { refused on "$1" cluster-probe http 10.99.0.9:80 1 1; }

by_package() {
    put "$1" 'cat >/root/balancing.deb' <"$(newest_deb)"
    on "$1" 'dpkg -i /root/balancing.deb && sed -i "s/^#* *NODE_NAME=.*/NODE_NAME=edge-1/" /etc/balancing/agent.env && systemctl enable --now balancing-agent' >/dev/null
    reaches_pods "$1" balancingctl
    on "$1" systemctl restart balancing-agent
    asked "$1"
    on "$1" 'systemctl disable --now balancing-agent && balancing-agent cleanup'
    reaches_nothing "$1"
    on "$1" 'cp /etc/balancing/agent.env /root/ && dpkg -r balancing && cp /root/agent.env /etc/balancing/' >/dev/null
}

by_container() {
    on "$1" 'systemctl start docker'
    put "$1" 'docker load' <"$repository/target/cluster/image/balancing-amd64.tar"
    documented 'docker run --detach' | put "$1" 'sh -ex'
    reaches_pods "$1" docker exec balancing-agent balancingctl
    on "$1" docker exec balancing-agent balancingctl doctor
    on "$1" docker kill balancing-agent
    asked "$1"
    on "$1" docker start balancing-agent
    within 60 joined "$1" docker exec balancing-agent balancingctl
    documented 'docker rm' | put "$1" 'sh -ex'
    asked "$1"
    documented 'docker run --rm' | put "$1" 'sh -ex'
    reaches_nothing "$1"
    on "$1" systemctl stop docker
}

prove() {
    local host=$((nodes + 1))
    start_outside_host "$host"
    daemon address "$(probe_for x86_64-unknown-linux-musl)" serve 9000 address
    helm upgrade balancing "$repository/install/chart" -n balancing-system --reuse-values --set externalHosts.enabled=true >"$work/log/helm" 2>&1
    apply_policies
    fabric | kubectl apply -f - >/dev/null
    (cd "$work" && KUBECONFIG="$work/pki/admin.kubeconfig" PATH="$tools/kube/bin:$PATH" inside "$repository/install/external-host-kubeconfig.sh" edge-1)
    within 120 on "$host" true
    put "$host" 'install -d -m 700 /etc/balancing && umask 077 && cat >/etc/balancing/kubeconfig' <"$work/edge-1.kubeconfig"
    by_package "$host"
    by_container "$host"
    fabric | kubectl delete -f - >/dev/null
    delete_policies
}
