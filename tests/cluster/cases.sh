# How cases run, and what is collected when one fails. Sourced.
# shellcheck shell=bash disable=SC2154
#
# A case is a file of cases/ with a function `prove`, which fails where something is not as it should be. Cases run in
# the order of their names, on one cluster: each leaves it as it found it. One that fails is the last.

default_cases() { (cd "$here/cases" && ls [0-9]*.sh) | sed "s|\.sh$||"; }

# case_file NAME: by whole name, or without its number.
case_file() { find "$here/cases" -name "$1.sh" -o -name "*-$1.sh" | head -n 1; }

# check_cases [NAME...]: before anything is started for them.
check_cases() {
    local name
    for name in "$@"; do [ -n "$(case_file "$name")" ] || die "no case '$name' in tests/cluster/cases"; done
}

# run_cases [NAME...]
run_cases() {
    local name started status passed=0
    [ $# -gt 0 ] || mapfile -t cases < <(default_cases)
    [ $# = 0 ] || cases=("$@")
    for name in "${cases[@]}"; do
        started=$SECONDS
        say "case $name"
        # Not as a condition: there `set -e` would mean nothing.
        set +e
        (
            set -eEuo pipefail
            trap 'say "stopped at: $BASH_COMMAND (${BASH_SOURCE[0]##*/}, line $LINENO)"' ERR
            # shellcheck source=/dev/null
            source "$(case_file "$name")"
            prove
        )
        status=$?
        set -e
        if [ "$status" != 0 ]; then
            say "case $name FAILED after $((SECONDS - started)) s"
            collect || true
            say "$passed passed, 1 failed: $name; $((${#cases[@]} - passed - 1)) not run"
            return 1
        fi
        passed=$((passed + 1))
        say "case $name passed after $((SECONDS - started)) s"
    done
    say "$passed passed, 0 failed"
}

# collect_cluster DIRECTORY: the state of the cluster, of every node and of a host outside.
collect_cluster() {
    local to=$1 number what
    {
        kubectl get nodes,pods -A -o wide
        kubectl get lr,bl,tunnelfabrics,tunnelnodes,externalhosts -A -o yaml
        kubectl get events -A --sort-by .lastTimestamp
        kubectl -n balancing-system logs -l app.kubernetes.io/name=balancing-controller --tail 500
    } >"$to/cluster" 2>&1 || true
    for number in $(seq "$nodes"); do
        {
            for what in status backends fabric doctor; do balancingctl "$number" "$what"; done
            kubectl -n balancing-system logs "$(agent_on "$number")" --all-containers --tail 500
            kubectl -n balancing-system logs "$(agent_on "$number")" --all-containers --tail 500 --previous
            on "$number" journalctl -b --no-pager -n 1000
            on "$number" dmesg
        } >"$to/node$number" 2>&1 || true
    done
    number=$((nodes + 1))
    ! lives "machine$number" || {
        for what in status fabric doctor; do on "$number" balancingctl "$what"; done
        on "$number" docker logs balancing-agent
        on "$number" journalctl -b --no-pager -n 1000
    } >"$to/outside" 2>&1 || true
}
