# Churn of pods and policies, and traffic, for MINUTES: what the agent holds at the end is what it held after the first
# minutes: memory, descriptors, pins, entries of tables.
# shellcheck shell=bash disable=SC2034,SC2154

# measures N: what grows where something leaks, as `name value`, on that node.
measures() {
    # shellcheck disable=SC2016  # for the machine
    on "$1" 'pid=$(pgrep -o -f "^/usr/local/bin/balancing-agent run")
        awk "/^VmRSS/ { print \"rss_kb\", \$2 } /^Threads/ { print \"threads\", \$2 }" /proc/$pid/status
        echo pid $pid
        echo descriptors $(ls /proc/$pid/fd | wc -l)
        echo pins $(find /sys/fs/bpf/balancing* | wc -l)
        echo files $(find /run/balancing -type f | wc -l)
        echo pods $(find /sys/fs/cgroup/kubepods.slice -maxdepth 2 -name "*pod*" | wc -l)'
    kubectl -n balancing-system get "$(agent_on "$1")" -o json | jq -r '"restarts \(.status.containerStatuses[0].restartCount)"'
    balancingctl "$1" status -o json |
        jq -r '.tables[] | "\(.name) \(.used)"'
}

churn() {
    local end=$((SECONDS + $1)) turn=0 number
    while [ "$SECONDS" -lt "$end" ]; do
        turn=$((turn + 1))
        for number in $(seq "$nodes"); do begin_pod "s$number" "$number"; done
        kubectl patch bl pods --type merge -p "{\"spec\":{\"frontend\":{\"addressMatcher\":{\"ip\":\"10.99.1.$((turn % 200 + 1))\",\"toPorts\":[{\"port\":\"80\",\"protocol\":\"TCP\"}]}}}}" >/dev/null
        for number in $(seq "$nodes"); do
            within 90 began "s$number" || return 1
            kubectl delete pod "s$number" >/dev/null
        done
    done
    say "$turn rounds of churn"
}

prove() {
    local seconds=$((${MINUTES:-30} * 60)) number loads=()
    [ "$seconds" -ge 300 ] || die "MINUTES: 5 at least"
    apply_policies
    for number in $(seq "$nodes"); do
        begin_load "g$number" cluster-probe http 169.254.169.254:80 "$long" 10
    done
    churn 180
    for number in $(seq "$nodes"); do measures "$number" >"$work/before$number"; done
    churn $((seconds - 240))
    for number in $(seq "$nodes"); do measures "$number" >"$work/after$number"; done
    end_loads
    for number in $(seq "$nodes"); do
        say "node$number: name, after 3 minutes, at the end"
        join <(sort "$work/before$number") <(sort "$work/after$number") | column -t
        # The same agent, and nothing is missing in the second list.
        [ "$(wc -l <"$work/before$number")" = "$(join <(sort "$work/before$number") <(sort "$work/after$number") | wc -l)" ]
        join <(sort "$work/before$number") <(sort "$work/after$number") |
            awk '$1 == "pid" || $1 == "restarts" { if ($2 != $3) { print "changed:", $0; bad = 1 }; next }
                # Its slots are taken by number of socket and never given back: it is full one day, and then as large as before.
                $1 == "connections" { next }
                $3 > $2 * 1.1 + 2 { print "grew:", $0; bad = 1 }
                END { exit bad || NR < 10 }'
    done
    delete_policies
}
