# Node-local DNS in one switch, as docs/install.md says it: answered on the node, no question lost while the caches are
# rolled out, few when one is killed, and a cache's own questions reach the cluster's servers whatever policy takes those
# of others.
# shellcheck shell=bash disable=SC2034,SC2154

release() {
    helm upgrade balancing "$repository/install/chart" -n balancing-system --reuse-values "$@" >"$work/log/helm" 2>&1 ||
        { cat "$work/log/helm" && return 1; }
}

cache_on() { kubectl -n balancing-system get pod -l app.kubernetes.io/name=node-local-dns --field-selector "spec.nodeName=node$1" "${@:2}"; }

# The cluster's server knows who.e2e; a cache's answer is that of the cluster, so the cache is told by its own counter.
questions_of() {
    local ip metrics
    ip=$(cache_on "$1" -o 'jsonpath={.items[0].status.podIP}') || return 1
    metrics=$(inside curl -sS --fail --max-time 5 "http://$ip:9153/metrics") || return 1
    printf '%s\n' "$metrics" | awk '/^coredns_dns_requests_total/ { sum += $NF } END { print sum + 0 }'
}

asked_the_cache() {
    local number=$1 before after
    before=$(questions_of "$number") || return 1
    in_pod "m$number" cluster-probe query "$cluster_dns:53" who.e2e 50 50 || return 1
    after=$(questions_of "$number") || return 1
    [ $((after - before)) -ge 50 ] || { echo "node$number: $((after - before)) questions reached the cache" && return 1; }
}

# Those that are ending are gone, too.
caches() { kubectl -n balancing-system get pod -l app.kubernetes.io/name=node-local-dns -o name | wc -l; }

# What would be a loop if it held for the caches' own questions.
below() {
    cat <<P
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata: {name: dns-below}
spec:
  frontend: {addressMatcher: {ip: $cluster_dns, toPorts: [{port: "53", protocol: UDP}]}}
  backend:
    serviceEndpoint:
      endpointSelector: {matchLabels: {app.kubernetes.io/name: node-local-dns}}
      toPorts: [{port: "1053", protocol: UDP}]
P
}

# questions RATE: as many a second to the cluster's DNS in all, from a pod of each node, until `end_loads`.
questions() {
    local number rate=$(($1 / nodes))
    loads=()
    for number in $(seq "$nodes"); do begin_load "m$number" cluster-probe query "$cluster_dns:53" lasts.e2e "$long" "$rate"; done
}

prove() {
    local number lost
    for number in $(seq "$nodes"); do
        within 60 in_pod "m$number" cluster-probe query "$cluster_dns:53" who.e2e 20 20
    done
    release --set nodeLocalDNS.enabled=true --set nodeLocalDNS.image.repository="$registry/coredns" --set-string nodeLocalDNS.image.tag=1
    kubectl wait --for=condition=Programmed lr/node-local-dns --timeout=2m
    kubectl -n balancing-system rollout status daemonset/node-local-dns --timeout 3m
    for number in $(seq "$nodes"); do
        within 30 asked_the_cache "$number"
        in_pod "m$number" cluster-probe resolve kubernetes.default.svc.cluster.local 40 20
        in_pod "g$number" cluster-probe resolve kubernetes.default.svc.cluster.local 40 20
    done

    say "a rollout of the caches under load"
    questions 200
    kubectl -n balancing-system rollout restart daemonset/node-local-dns >/dev/null
    kubectl -n balancing-system rollout status daemonset/node-local-dns --timeout 3m >/dev/null
    end_loads

    within 90 equal "$nodes" caches
    say "a cache killed without notice under load"
    questions $((20 * nodes))
    sleep 5
    on 1 pkill -9 -u 65532 coredns
    sleep 10
    end_loads || [ $? = 1 ]
    lost=$(grep -o 'failed=[0-9]*' <<<"$reports" | awk -F= '{ sum += $2 } END { print sum }')
    say "$lost questions were lost"
    # The kubelet looks once a second, and the API server has to hear of it: more than 20 are asked of that node meanwhile.
    [ "$lost" -le 10 ]
    kubectl -n balancing-system rollout status daemonset/node-local-dns --timeout 2m >/dev/null

    say "a policy that sends the cluster's DNS to the caches"
    below | kubectl apply -f - >/dev/null
    kubectl wait --for=condition=Programmed bl/dns-below --timeout=60s >/dev/null
    for number in $(seq "$nodes"); do
        # Each answer of who.e2e is the cluster's and lives 0 seconds, so each question goes all the way.
        within 30 asked_the_cache "$number"
        in_pod "m$number" cluster-probe query "$cluster_dns:53" who.e2e 100 50
    done
    below | kubectl delete -f - >/dev/null
}
