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

# begin_load POD COMMAND...: in the pod's background, so that it needs neither kubelet nor runtime while it runs.
begin_load() {
    local pod=$1
    shift
    loads+=("$pod")
    in_pod "$pod" sh -c "rm -f /tmp/status; ($* >/tmp/report 2>&1; echo \$? >/tmp/status) </dev/null >/dev/null 2>&1 &"
}

# end_loads: until all have ended; their reports, and whether none lost anything.
end_loads() {
    local pod status=0
    for pod in "${loads[@]}"; do
        within 300 in_pod "$pod" cat /tmp/status
        echo "$pod: $(in_pod "$pod" cat /tmp/report)"
        [ "$(in_pod "$pod" cat /tmp/status)" = 0 ] || status=1
    done
    loads=()
    return "$status"
}

# traffic SECONDS: new connections and a held one from each node, until `end_loads`.
traffic() {
    local number
    loads=()
    for number in $(seq "$nodes"); do
        begin_load "m$number" cluster-probe http 10.99.0.1:80 "$(($1 * 20))" 20
        begin_load "g$number" cluster-probe hold 10.99.0.1:80 "$1"
    done
}

# begin_pod NAME NODE: a pod that asks at once and ends: it fails where it is not redirected from the start.
begin_pod() {
    pod "$1" "$2" beginning probe-musl '[cluster-probe, http, "169.254.169.254:80", "3", "10"]' '' 'restartPolicy: Never' |
        kubectl apply -f - >/dev/null
}

began() { equal Succeeded kubectl get pod "$1" -o 'jsonpath={.status.phase}'; }
