# Removal as docs/install.md says it, under load: open connections and new ones go on, by kube-proxy's means at the end;
# nodes are as they were, pods start and end.
# shellcheck shell=bash disable=SC2034,SC2154

leftovers() {
    local number left
    for number in $(seq "$nodes"); do
        left=$(on "$number" 'ls -d /sys/fs/bpf/balancing* /run/balancing/* /opt/cni/bin/balancing-cni 2>/dev/null
            grep -l balancing /etc/cni/net.d/* 2>/dev/null
            ip -o link show balancing0 2>/dev/null
            nft list tables | grep balancing
            bpftool cgroup tree | grep -E "(connect|sendmsg|recvmsg|getpeername)[46] *$"
            true') || return 1
        [ -z "$left" ] || { echo "node$number: $left" && return 1; }
    done
}

# Pods that start while we go, and ask by what there is at that moment.
starting_clients() {
    local number turn
    for turn in 1 2 3 4; do
        for number in $(seq "$nodes"); do
            pod "c$turn-$number" "$number" starting probe-musl "[cluster-probe, query, \"$cluster_dns:53\", who.e2e, \"40\", \"20\"]" '' 'restartPolicy: Never' |
                kubectl apply -f - >/dev/null || return 1
        done
        sleep 5
    done
    for turn in 1 2 3 4; do
        for number in $(seq "$nodes"); do within 120 began "c$turn-$number" || return 1; done
    done
    kubectl delete pod -l app=starting --wait=false >/dev/null
}

gone() { equal '' kubectl get pod "$1" --ignore-not-found -o name; }

prove() {
    local number loads=()
    apply_policies
    for number in $(seq "$nodes"); do
        # One connection that was redirected, and new ones to the cluster's DNS.
        begin_load "g$number" cluster-probe hold 10.99.0.1:80 "$long"
        begin_load "m$number" cluster-probe query "$cluster_dns:53" who.e2e "$long" 20
    done
    starting_clients &
    starting=$!
    trap 'kill $starting 2>/dev/null || true' EXIT
    helm upgrade balancing "$repository/install/chart" -n balancing-system --reuse-values \
        --set balancingAgent.remove=true --set balancingAgent.cni.criSocket=/run/containerd/containerd.sock --set balancingAgent.pauseImage="$registry/pause:1" >"$work/log/helm" 2>&1 ||
        { cat "$work/log/helm" && return 1; }
    kubectl rollout status -n balancing-system daemonset/balancing-agent --timeout 5m
    kubectl -n balancing-system logs -l app.kubernetes.io/name=balancing-agent -c cni-uninstall --tail 5
    helm uninstall balancing -n balancing-system 2>&1 | grep -v level=INFO
    leftovers
    refused in_pod m1 cluster-probe http 10.99.0.1:80 1 1
    wait "$starting"
    end_loads
    kubectl get lr,bl
    # Pods of our time end, and new ones start.
    kubectl delete pod m1 --wait=false >/dev/null
    within 60 gone m1
    pods 1 | kubectl apply -f - >/dev/null
    within 120 running m1
    delete_policies
}
