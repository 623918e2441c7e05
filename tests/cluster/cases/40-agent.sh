# The agents are upgraded and rolled back by helm, then one is killed, while pods start and traffic runs: nothing is lost,
# and each new pod is redirected from its first connection.
# shellcheck shell=bash disable=SC2154

# while_pods_start PREFIX COMMAND...
while_pods_start() {
    starting_pods "$1" &
    starting=$!
    trap 'kill $starting 2>/dev/null || true' EXIT
    "${@:2}"
    wait "$starting"
}

rolled_out() { kubectl -n balancing-system rollout status daemonset/balancing-agent --timeout 5m >/dev/null; }

upgrade() {
    helm upgrade balancing "$repository/install/chart" -n balancing-system --reuse-values --set balancingAgent.logLevel=debug >"$work/log/helm" 2>&1
    rolled_out
}

rollback() {
    helm rollback balancing -n balancing-system >"$work/log/helm" 2>&1
    rolled_out
}

kill_one() {
    sleep 3
    on 1 pkill -9 -f "'^/usr/local/bin/balancing-agent run'"
}

prove() {
    apply_policies
    traffic
    while_pods_start a upgrade
    say "the agents were upgraded"
    while_pods_start b rollback
    say "and rolled back"
    while_pods_start c kill_one
    say "one was killed"
    rolled_out
    end_loads
    kubectl delete pod -l app=beginning --wait=false >/dev/null
    delete_policies
}
