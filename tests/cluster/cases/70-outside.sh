# A host outside the cluster, a machine of its own: it joins by docs/external-hosts.md, from the Debian package, under
# systemd, and reaches pods through the tunnel; it has no route to them.
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

joined() { on "$1" balancingctl fabric | grep -q '^State: *member'; }
# All nodes answer through the tunnel, with full frames.
checked() { [ "$(on "$1" balancingctl fabric check | grep -c ' yes ')" = "$nodes" ]; }
asked() { on "$1" cluster-probe http 10.99.0.9:80 40 20; }

prove() {
    local host=$((nodes + 1)) number report
    start_outside_host "$host"
    helm upgrade balancing "$repository/install/chart" -n balancing-system --reuse-values --set externalHosts.enabled=true >/dev/null 2>&1
    fabric | kubectl apply -f - >/dev/null
    (cd "$work" && KUBECONFIG="$work/pki/admin.kubeconfig" PATH="$tools/kube/bin:$PATH" inside "$repository/install/external-host-kubeconfig.sh" edge-1)
    within 120 on "$host" true
    put "$host" 'cat >/root/balancing.deb' <"$(ls "$repository"/target/cluster/deb/*_amd64.deb)"
    put "$host" 'install -d -m 700 /etc/balancing && umask 077 && cat >/etc/balancing/kubeconfig' <"$work/edge-1.kubeconfig"
    on "$host" 'dpkg -i /root/balancing.deb && sed -i "s/^#* *NODE_NAME=.*/NODE_NAME=edge-1/" /etc/balancing/agent.env && systemctl enable --now balancing-agent' >/dev/null
    within 120 joined "$host"
    within 60 checked "$host"
    on "$host" balancingctl fabric check
    within 30 asked "$host"
    report=$(asked "$host")
    for number in $(seq "$nodes"); do grep -qF "[web-on-$number]" <<<"$report" || { echo "$report" && return 1; }; done
    say "from outside: $report"
    on "$host" 'ip route get 10.244.1.1'
    on "$host" systemctl restart balancing-agent
    asked "$host"
    on "$host" 'systemctl disable --now balancing-agent && balancing-agent cleanup'
    if on "$host" cluster-probe http 10.99.0.9:80 1 1 2>/dev/null; then
        echo "the host is still redirected"
        return 1
    fi
    fabric | kubectl delete -f - >/dev/null
}
