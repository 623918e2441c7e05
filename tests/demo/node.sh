# The stage: a node, its pods, and the rest of the cluster, each a network namespace.
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${BALANCING_BIN:-$repository/target/release}
work=/run/demo
objects=$work/objects
client_uid=5a1e9d52-0c8f-4c1b-9d0e-2f6f2f3b7a01
local_uid=8c3b7f10-6f7e-4a55-8f3e-1b2c3d4e5f02

# The stories name files as a user at the top of the repository does.
cd "$repository" || exit

# A step that fails ends the story. Subshells leave the word to their parent, which may fail under a redirection.
exec 3>&2
set -E
trap '[ "$BASH_SUBSHELL" != 0 ] || give_up "$BASH_COMMAND" >&3' ERR
give_up() { # COMMAND
    echo "demo: failed: $1"
    find "$work" -size +0 \( -name '*.log' -o -name 'cni-*.json' \) -exec tail -n 5 -v {} +
}
for program in balancing-agent balancingctl balancing-cni; do
    [ -x "$bin/$program" ] || { echo "demo: no $bin/$program; run: make build" >&2; exit 1; }
done

# What the stories print.
title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { # PLACE COMMAND...: a place is a function that runs the command there; '' = here
    show "$@"
    if [ -n "$1" ]; then "$@"; else "${@:2}"; fi 2>&1 | indent
}
refused() { # COMMAND...: which must fail
    show "" "$@"
    ! "$@" 2>&1 | indent
}
show() { printf '%-7s $%s\n' "$1" "$(as_typed "${@:2}")"; }
indent() { sed 's/^/          /'; }

as_typed() { # COMMAND...: quoted where a shell needs it
    local word
    for word; do
        [[ $word =~ ^[][A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
        printf ' %s' "$word"
    done
}

# The question of all stories.
DNS=(kdig +short +timeout=2 @10.96.0.10 whoami.demo TXT)

answers() { # TEXT COMMAND...: whether the client's command prints the text
    [[ $(client "${@:2}" 2>/dev/null) == *"$1"* ]]
}

# Waits for the begin of a second, then asks.
ask_20_times_in_a_second() { # shellcheck disable=SC2016
    client bash -c 'while [ "${EPOCHREALTIME#*.}" -gt 100000 ]; do :; done
        for i in $(seq 20); do "$@"; done | sort | uniq -c' ask "${DNS[@]}"
}

# Hides directories that the CNI tools write to; all of it goes with the mount namespace.
private_mounts() {
    mount -t tmpfs demo /run
    mount -t tmpfs demo /var/lib
    mkdir -p "$work/bpf" "$objects" /run/netns
    mount -t bpf bpf "$work/bpf"
}

in_ns() { # NAMESPACE COMMAND...: the mounts stay those of the demo
    nsenter --net="/run/netns/$1" -- "${@:2}"
}

# in_cgroup CGROUP COMMAND...: as a process that was born there
in_cgroup() {
    # shellcheck disable=SC2016
    bash -c 'echo 0 >"$0/cgroup.procs" && exec "$@"' "$DEMO_CGROUP/$1" "${@:2}"
}

pod_cgroup() { echo "kubepods/besteffort/pod$1"; }
client() { in_cgroup "$(pod_cgroup $client_uid)" nsenter --net=/run/netns/client -- "$@"; }
host() { in_cgroup host nsenter --net=/run/netns/node -- "$@"; }

# The rest of the cluster: what the Services and the cloud answer with.
make_remote() {
    ip netns add remote
    ip netns add node
    ip -n node link add uplink type veth peer name uplink netns remote
    ip -n node link set lo up
    ip -n node link set uplink up
    ip -n node addr add 192.168.10.1/24 dev uplink
    ip -n node route add default via 192.168.10.2
    in_ns node sysctl -qw net.ipv4.ip_forward=1
    ip -n remote link set lo up
    ip -n remote link set uplink up
    ip -n remote addr add 192.168.10.2/24 dev uplink
    ip -n remote route add 10.244.1.0/24 via 192.168.10.1
    local address
    for address in 10.96.0.10 10.96.0.80 10.96.0.81 169.254.169.254 1.1.1.1 1.1.1.2; do
        ip -n remote addr add $address/32 dev lo
    done
    serve_dns remote "cluster DNS on another node" 10.96.0.10
    serve_http remote 10.96.0.80:80 "the Service's own pod, on another node"
    serve_http remote 10.96.0.81:80 "the Service's own pod, on another node"
    serve_http remote 169.254.169.254:80 "the cloud's metadata service"
    serve_http remote 1.1.1.1:80 "custom backend 1.1.1.1"
    serve_http remote 1.1.1.2:80 "custom backend 1.1.1.2"
}

serve_dns() { # NAMESPACE NAME [ADDRESS]
    in_ns "$1" dnsmasq --keep-in-foreground --no-resolv --no-hosts --conf-file=/dev/null --user=root \
        ${3:+--bind-interfaces --listen-address="$3"} --pid-file= --txt-record="whoami.demo,$2" >"$work/dns-$1${3:+-$3}.log" 2>&1 &
}

serve_http() { # NAMESPACE ADDRESS:PORT TEXT
    local dir="$work/www/$1-$2"
    mkdir -p "$dir"
    echo "$3" >"$dir/index.html"
    nsenter --net="/run/netns/$1" -- busybox httpd -f -p "$2" -h "$dir" &
    # Nobody wants to read that it was ended.
    disown
}

# A pod as a runtime makes it: cgroup first, then the namespace, then the CNI chain.
make_pod() { # NAME UID [NAMESPACE [POD]]
    mkdir -p "$DEMO_CGROUP/$(pod_cgroup "$2")"
    ip netns add "$1"
    cni add "$@" >"$work/cni-$1.json"
}

cni() { # VERB NAME UID [NAMESPACE [POD]]: the pod is called as its network namespace when it has no other name
    # shellcheck disable=SC2154
    in_ns node env CNI_PATH="$repository/tests/tools/bin:$bin" NETCONFPATH="$work/cni" \
        CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=${4:-default};K8S_POD_NAME=${5:-$2};K8S_POD_UID=$3" \
        CAP_ARGS="{\"cgroupPath\": \"/$(pod_cgroup "$3")\"}" \
        "$repository/tests/tools/bin/cnitool" "$1" demo "/run/netns/$2" 2>>"$work/cnitool.log"
}

write_conflist() {
    mkdir -p "$work/cni"
    cat >"$work/cni/10-demo.conflist" <<JSON
{
  "cniVersion": "1.0.0",
  "name": "demo",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true,
      "ipam": {
        "type": "host-local", "dataDir": "$work/ipam",
        "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {
      "type": "balancing-cni", "bpffs": "$work/bpf", "runDir": "$work/agent", "cgroupRoot": "$DEMO_CGROUP",
      "capabilities": {"cgroupPath": true}
    }
  ]
}
JSON
}

pod_ip() { jq -r '.ips[0].address | split("/")[0]' "$work/cni-$1.json"; }

start_agent() {
    nsenter --net=/run/netns/node -- "$bin/balancing-agent" --source "dir:$objects" --node-name demo-node --bpffs "$work/bpf" \
        --run-dir "$work/agent" --cgroup-root "$DEMO_CGROUP" >>"$work/agent.log" 2>&1 &
    # shellcheck disable=SC2034
    agent_pid=$!
    until_true "the agent to be ready" agent_is_ready
}

# Ends it as a crash would.
crash() { # PID
    kill -KILL "$1"
    wait "$1" 2>/dev/null || true
}

balancing-agent() { "$bin/balancing-agent" "$@" --bpffs "$work/bpf" --run-dir "$work/agent"; }
balancingctl() { "$bin/balancingctl" --bpffs "$work/bpf" --run-dir "$work/agent" "$@"; }
agent_is_ready() { balancingctl status -o json 2>/dev/null | jq -e .ready >/dev/null; }

# Whether the question's frontend has the QoS limit of the stories.
limited() { balancingctl explain 10.96.0.10:53/udp | grep -q "above 5 redirections in a second"; }

until_true() { # WHAT COMMAND...
    local patience=30 start=$SECONDS
    while [ $((SECONDS - start)) -lt $patience ]; do
        "${@:2}" && return
        sleep 0.05
    done
    echo "demo: gave up waiting for $1 after $patience s" >&2
    return 1
}

# The file appears in one step, so the agent never reads half of it.
put() { # NAME: the object on standard input
    cat >"$objects/.$1" && mv "$objects/.$1" "$objects/$1"
}

client_pod() {
    put client-pod.yaml <<YAML
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default, uid: $client_uid}
spec: {nodeName: demo-node}
status: {podIP: $(pod_ip client), conditions: [{type: Ready, status: "True"}]}
YAML
}

local_pod() { # READY
    put local-pod.yaml <<YAML
apiVersion: v1
kind: Pod
metadata:
  name: local
  namespace: default
  uid: $local_uid
  labels: {app: http-redirect, k8s-app: node-local-dns}
spec:
  nodeName: demo-node
  containers: [{name: main, ports: [{containerPort: 80, hostPort: 20080}]}]
status:
  podIP: $(pod_ip local)
  hostIP: 192.168.10.1
  conditions: [{type: Ready, status: "$1"}]
YAML
}
