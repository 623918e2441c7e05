# Hosts in networks of their own, joined by a router: the nodes n1 and n2, `edge` outside the cluster, and `remote`,
# where the control plane is.
# shellcheck shell=bash disable=SC2034,SC2154

declare -A agents

# underlay_of HOST
underlay_of() {
    case $1 in
    n1) echo 192.168.1.2 ;;
    n2) echo 192.168.2.2 ;;
    edge) echo 192.168.3.2 ;;
    remote) echo 192.168.10.2 ;;
    esac
}

make_networks() {
    ip netns add router
    in_ns router sysctl -qw net.ipv4.ip_forward=1
    local host address
    for host in n1 n2 edge remote; do
        address=$(underlay_of $host)
        ip netns add $host
        ip -n $host link set lo up
        ip -n router link add $host type veth peer name under0 netns $host
        ip -n router addr add "${address%.*}.1/24" dev $host
        ip -n router link set $host up
        ip -n $host addr add "$address/24" dev under0
        ip -n $host link set under0 up
        ip -n $host route add default via "${address%.*}.1"
        mkdir -p "$DEMO_CGROUP/$host" "$work/$host/bpf"
        mount -t bpf bpf "$work/$host/bpf"
    done
}

# Commands on a host.
n1() { on n1 "$@"; }
n2() { on n2 "$@"; }
edge() { on edge "$@"; }
on() { # HOST COMMAND...
    if [ "$2" = balancingctl ]; then
        set -- "$1" "$bin/balancingctl" --bpffs "$work/$1/bpf" --run-dir "$work/$1/agent" "${@:3}"
    fi
    in_cgroup "$1" nsenter --net="/run/netns/$1" -- "${@:2}"
}

failing() { # HOST COMMAND...: which must fail
    show "$@"
    ! "$@" 2>&1 | indent
}

node_token() { # NODE
    kubectl create token -n balancing-system balancing-agent --bound-object-kind Node --bound-object-name "$1"
}

# The agent of a host with the rights of its own token.
start_host() { # HOST TOKEN ARGUMENT...
    kubeconfig "$1" "$2" balancing-system
    show "$1" balancing-agent "${@:3}" --kubeconfig "$plane/$1.kubeconfig" --node-name "$1"
    nsenter --net="/run/netns/$1" -- "$bin/balancing-agent" "${@:3}" --kubeconfig "$plane/$1.kubeconfig" \
        --node-name "$1" --bpffs "$work/$1/bpf" --run-dir "$work/$1/agent" --cgroup-root "$DEMO_CGROUP/$1" \
        >>"$work/agent-$1.log" 2>&1 &
    agents[$1]=$!
    until_true "the agent of $1 to be ready" eval "on $1 balancingctl status -o json 2>/dev/null | jq -e .ready >/dev/null"
}

# A pod with an address that its node alone can reach, in a network namespace called like it.
make_overlay_pod() { # NODE POD ADDRESS
    ip netns add "$2"
    ip -n "$2" link set lo up
    ip -n "$1" link add "$(pod_device "$2")" type veth peer name eth0 netns "$2"
    ip -n "$1" addr add 169.254.1.1/32 dev "$(pod_device "$2")"
    ip -n "$1" link set "$(pod_device "$2")" up
    ip -n "$2" addr add "$3/32" dev eth0
    ip -n "$2" link set eth0 up
    ip -n "$2" route add default via 169.254.1.1 dev eth0 onlink
    ip -n "$1" route add "$3/32" dev "$(pod_device "$2")"
    in_ns "$1" sysctl -qw net.ipv4.ip_forward=1
}

pod_device() { echo "veth${1: -5}"; } # POD

stop_overlay_pod() { # NODE POD
    ip netns pids "$2" | xargs -r kill
    ip -n "$1" link del "$(pod_device "$2")"
    ip netns del "$2"
    kubectl delete --raw "/api/v1/namespaces/default/pods/$2?gracePeriodSeconds=0" >/dev/null
}

# Captures the first packets at a device of a host, for run_captured to show.
captures=()
capture() { # HOST DEVICE FILTER OPTION...
    local file="$work/capture-${#captures[@]}"
    captures+=("$file")
    printf '%-7s $ tcpdump -i %s%s %s' "$1" "$2" "${4:+ ${*:4}}" "'$3'" >"$file.title"
    in_ns "$1" tcpdump -n -t -q -l -c 4 -i "$2" "${@:4}" "$3" >"$file" 2>"$file.err" &
    until_true "tcpdump" grep -q 'listening on' "$file.err"
}
run_captured() {
    local file
    for file in "${captures[@]}"; do
        until_true "the packets" eval "[ \$(wc -l <$file) -ge 4 ]"
        printf '%s\n' "$(cat "$file.title")"
        indent <"$file"
    done
}
