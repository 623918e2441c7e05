# Load on the cluster from its pods, and what its reports must say. Sourced.
# shellcheck shell=bash disable=SC2154

# asks POD ADDRESS WANTED...: 40 questions, none fails, and exactly these answer.
asks() {
    local pod=$1 to=$2 report
    shift 2
    report=$(in_pod "$pod" cluster-probe http "$to" 40 20) || { echo "$pod to $to: $report" && return 1; }
    holds "$pod to $to" "$report" "$@"
}

# asks_from MACHINE ADDRESS WANTED...: the same from a process of that machine.
asks_from() {
    local number=$1 to=$2 report
    shift 2
    report=$(on "$number" cluster-probe http "$to" 40 20) || { echo "machine $number to $to: $report" && return 1; }
    holds "machine $number to $to" "$report" "$@"
}

holds() {
    local who=$1 report=$2 name
    shift 2
    for name in "$@"; do
        grep -qF "[$name]" <<<"$report" || { echo "$who: $name did not answer: $report" && return 1; }
    done
    [ "$(grep -o '\[' <<<"$report" | wc -l)" = $# ] || { echo "$who: others answered: $report" && return 1; }
}

# Longer than any case: load ends when `end_loads` says so, and so spans whatever the case does meanwhile.
long=1000000

# begin_load POD COMMAND...: in the pod's background, so that it needs neither kubelet nor runtime while it runs.
begin_load() {
    local pod=$1
    shift
    loads+=("$pod")
    in_pod "$pod" sh -c "rm -f /tmp/status /tmp/stop; (PROBE_STOP=/tmp/stop $* >/tmp/report 2>&1; echo \$? >/tmp/status) </dev/null >/dev/null 2>&1 &"
}

# end_loads: their reports, and whether none lost anything: 1 where one did, 2 where one did not last until here.
end_loads() {
    local pod status=0
    reports=''
    for pod in "${loads[@]}"; do
        if in_pod "$pod" cat /tmp/status >/dev/null 2>&1; then echo "the load of $pod ended early" && return 2; fi
        in_pod "$pod" sh -c ': >/tmp/stop' || return 2
    done
    for pod in "${loads[@]}"; do
        within 60 in_pod "$pod" cat /tmp/status || return 2
        reports+="$pod: $(in_pod "$pod" cat /tmp/report)"$'\n' || return 2
        [ "$(in_pod "$pod" cat /tmp/status)" = 0 ] || status=1
    done
    printf %s "$reports"
    loads=()
    return "$status"
}

# traffic: new connections and a held one from each node, until `end_loads`.
traffic() {
    local number
    loads=()
    for number in $(seq "$nodes"); do
        begin_load "m$number" cluster-probe http 10.99.0.1:80 "$long" 20
        begin_load "g$number" cluster-probe hold 10.99.0.1:80 "$long"
    done
}

# refused COMMAND...: the one question of a probe reached nobody; it was asked, and nothing else went wrong.
refused() {
    local report
    report=$("$@" 2>&1) || true
    grep -q 'ok=0 failed=1' <<<"$report" || { echo "$*: $report" && return 1; }
}

# starting_pods PREFIX: three on each node, one after another, until each has run to its end.
starting_pods() {
    local number turn
    for turn in 1 2 3; do
        for number in $(seq "$nodes"); do begin_pod "$1$turn-$number" "$number"; done
        sleep 5
    done
    for turn in 1 2 3; do
        for number in $(seq "$nodes"); do within 120 began "$1$turn-$number" || return 1; done
    done
}

# begin_pod NAME NODE: a pod that asks at once and ends: it fails where it is not redirected from the start.
begin_pod() {
    pod "$1" "$2" beginning probe-musl '[cluster-probe, http, "169.254.169.254:80", "3", "10"]' '' 'restartPolicy: Never' |
        kubectl apply -f - >/dev/null
}

began() { equal Succeeded kubectl get pod "$1" -o 'jsonpath={.status.phase}'; }
