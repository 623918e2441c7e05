# The metadata address, and BalancingPolicies to pods, to host ports and to addresses: from pods of every node with
# both C libraries, and from a process of the node itself.
# shellcheck shell=bash disable=SC2154

prove() {
    local number kind all=()
    daemon address "$(probe_for x86_64-unknown-linux-musl)" serve 9000 address
    apply_policies
    for number in $(seq "$nodes"); do all+=("web-on-$number"); done
    for number in $(seq "$nodes"); do
        for kind in m g; do
            asks "$kind$number" 169.254.169.254:80 "metadata-on-$number"
            asks "$kind$number" 10.99.0.1:80 "${all[@]}"
            asks "$kind$number" 10.99.0.2:80 "${all[@]}"
            asks "$kind$number" 10.99.0.3:80 address
        done
        # A process of the host, outside every pod.
        asks_from "$number" 10.99.0.1:80 "${all[@]}"
        asks_from "$number" 10.99.0.2:80 "${all[@]}"
        asks_from "$number" 10.99.0.3:80 address
        # The example is for pods only.
        refused on "$number" cluster-probe http 169.254.169.254:80 1 1
    done
    kubectl get lr,bl
    balancingctl 1 explain 10.99.0.1:80
    delete_policies
}
