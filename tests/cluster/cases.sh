# How cases run, and what is collected when one fails. Sourced.
# shellcheck shell=bash disable=SC2154
#
# A case is a file of cases/ with a function `prove`, which fails where something is not as it should be. Cases run in
# the order of their names, on one cluster: each leaves it as it found it.

default_cases() { (cd "$here/cases" && ls [0-9]*.sh) | sed "s|\.sh$||"; }

# run_cases [NAME...]: by whole name, or without its number.
run_cases() {
    local name file started status passed=0
    [ $# -gt 0 ] || mapfile -t cases < <(default_cases)
    [ $# = 0 ] || cases=("$@")
    for name in "${cases[@]}"; do
        file=$(find "$here/cases" -name "$name.sh" -o -name "*-$name.sh" | head -n 1)
        [ -n "$file" ] || die "no case '$name' in tests/cluster/cases"
        started=$SECONDS
        say "case $name"
        # Not as a condition: there `set -e` would mean nothing.
        set +e
        (
            set -eEuo pipefail
            trap 'say "stopped at: $BASH_COMMAND (${BASH_SOURCE[0]##*/}, line $LINENO)"' ERR
            # shellcheck source=/dev/null
            source "$file"
            prove
        )
        status=$?
        set -e
        if [ "$status" = 0 ]; then
            passed=$((passed + 1))
            say "case $name passed after $((SECONDS - started)) s"
        else
            failed+=("$name")
            say "case $name FAILED after $((SECONDS - started)) s"
        fi
    done
    say "$passed passed, ${#failed[@]} failed${failed:+: ${failed[*]}}"
}

# collect: the state of the cluster and of every node, to where it outlives the run.
collect() {
    local to number
    to=$(mktemp -d "${TMPDIR:-/tmp}/balancing-e2e-failed.XXXXXX")
    cp -r "$work/log" "$to/" 2>/dev/null || true
    {
        kubectl get nodes,pods -A -o wide
        kubectl get lr,bl,tunnelfabrics,tunnelnodes,externalhosts -A -o yaml
        kubectl get events -A --sort-by .lastTimestamp
    } >"$to/cluster" 2>&1 || true
    for number in $(seq "$nodes"); do
        {
            for what in status "backends" "fabric" "doctor"; do balancingctl "$number" "$what"; done
            kubectl -n balancing-system logs "$(agent_on "$number")" --all-containers --tail 500
            on "$number" journalctl -b --no-pager -n 1000
            on "$number" dmesg
        } >"$to/node$number" 2>&1 || true
    done
    say "logs and states: $to"
}
