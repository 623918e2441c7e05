# The agents are rolled out, then one is killed, while pods start and traffic runs: nothing is lost, and each new pod is
# redirected from its first connection.
# shellcheck shell=bash disable=SC2154

starting_pods() {
    local number turn
    for turn in 1 2 3; do
        for number in $(seq "$nodes"); do begin_pod "s$turn-$number" "$number"; done
        sleep 5
    done
}

prove() {
    local number turn starting
    apply_policies
    traffic 90
    starting_pods &
    starting=$!
    kubectl -n balancing-system rollout restart daemonset/balancing-agent >/dev/null
    kubectl -n balancing-system rollout status daemonset/balancing-agent --timeout 5m >/dev/null
    end_loads
    wait "$starting"
    say "agents were replaced; now one is killed"
    traffic 30
    sleep 5
    on 1 pkill -9 -f "'^/usr/local/bin/balancing-agent run'"
    end_loads
    for turn in 1 2 3; do
        for number in $(seq "$nodes"); do
            within 90 began "s$turn-$number"
        done
    done
    kubectl delete pod -l app=beginning --wait=false >/dev/null
    kubectl -n balancing-system rollout status daemonset/balancing-agent --timeout 2m >/dev/null
    delete_policies
}
