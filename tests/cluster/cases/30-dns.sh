# Node-local DNS in one switch, as docs/install.md says it: answered on the node, no question lost while the caches are
# rolled out, what a killed cache costs, and what happens to a cache's own questions.
# shellcheck shell=bash disable=SC2034,SC2154

release() {
    helm upgrade balancing "$repository/install/chart" -n balancing-system --reuse-values "$@" >"$work/log/helm" 2>&1 ||
        { cat "$work/log/helm" && return 1; }
}

cache_on() { kubectl -n balancing-system get pod -l app.kubernetes.io/name=node-local-dns --field-selector "spec.nodeName=node$1" "${@:2}"; }

# The cluster's server knows who.e2e; a cache's answer is that of the cluster, so the cache is told by its own counter.
questions_of() {
    local ip
    ip=$(cache_on "$1" -o 'jsonpath={.items[0].status.podIP}')
    inside curl -s --max-time 5 "http://$ip:9153/metrics" | awk '/^coredns_dns_requests_total/ { sum += $NF } END { print sum + 0 }'
}

asked_the_cache() {
    local number=$1 before after
    before=$(questions_of "$number")
    in_pod "m$number" cluster-probe query "$cluster_dns:53" who.e2e 50 50
    after=$(questions_of "$number")
    [ $((after - before)) -ge 50 ] || { echo "node$number: $((after - before)) questions reached the cache" && return 1; }
}

# questions SECONDS: to the cluster's DNS from a pod of each node, until `end_loads`.
questions() {
    local number rate=${RATE:-200}
    loads=()
    for number in $(seq "$nodes"); do begin_load "m$number" cluster-probe query "$cluster_dns:53" who.e2e "$(($1 * rate))" "$rate"; done
}

prove() {
    local number ip
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
    questions 60
    kubectl -n balancing-system rollout restart daemonset/node-local-dns >/dev/null
    kubectl -n balancing-system rollout status daemonset/node-local-dns --timeout 3m >/dev/null
    end_loads

    say "a cache killed without notice under load"
    questions 20
    sleep 5
    on 1 pkill -9 -u 65532 coredns
    end_loads || say "questions were lost, see above"
    kubectl -n balancing-system rollout status daemonset/node-local-dns --timeout 2m >/dev/null
}
