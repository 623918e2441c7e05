# Load on the cluster from its pods, and what its reports must say. Sourced.
# shellcheck shell=bash disable=SC2154

# asks POD ADDRESS WANTED...: 40 questions, none fails, and exactly these answer.
asks() {
    local pod=$1 to=$2 report
    shift 2
    report=$(in_pod "$pod" cluster-probe http "$to" 40 20) || { echo "$pod to $to: $report" && return 1; }
    holds "$pod to $to" "$report" "$@"
}

holds() {
    local who=$1 report=$2 name
    shift 2
    for name in "$@"; do
        grep -qF "[$name]" <<<"$report" || { echo "$who: $name did not answer: $report" && return 1; }
    done
    [ "$(grep -o '\[' <<<"$report" | wc -l)" = $# ] || { echo "$who: others answered: $report" && return 1; }
}

# traffic SECONDS: new connections and a held one from each node, in the background until `wait_traffic`.
traffic() {
    local number
    traffic=()
    for number in $(seq "$nodes"); do
        in_pod "m$number" cluster-probe http 10.99.0.1:80 "$(($1 * 20))" 20 >"$work/traffic$number" 2>&1 &
        traffic+=($!)
        in_pod "g$number" cluster-probe hold 10.99.0.1:80 "$1" >"$work/held$number" 2>&1 &
        traffic+=($!)
    done
}

wait_traffic() {
    local pid status=0
    for pid in "${traffic[@]}"; do wait "$pid" || status=1; done
    cat "$work"/traffic* "$work"/held*
    return "$status"
}

# begin_pod NAME NODE: a pod that asks at once and ends: it fails where it is not redirected from the start.
begin_pod() {
    pod "$1" "$2" beginning probe-musl '[cluster-probe, http, "169.254.169.254:80", "3", "10"]' '' 'restartPolicy: Never' |
        kubectl apply -f - >/dev/null
}

began() { equal Succeeded kubectl get pod "$1" -o 'jsonpath={.status.phase}'; }
