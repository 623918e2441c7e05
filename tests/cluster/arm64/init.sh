#!/bin/busybox sh
# The first process of the machine: starts agent, server and client, tells what it sees and turns the machine off. Only
# after the line `arm64: passed` everything was as it should be.
export PATH=/usr/local/bin:/usr/sbin:/bin
/bin/busybox --install -s /bin

say() { echo "arm64: $*"; }

end() {
    say "$*"
    poweroff -f
    sleep 1000
}

# Fails when a step does; the machine has no debugger.
must() { "$@" >/tmp/step 2>&1 || { cat /tmp/step /tmp/agent.log; end "failed: $*"; }; }

within() { # SECONDS COMMAND...
    left=$1
    shift
    until "$@" >/tmp/step 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { cat /tmp/step /tmp/agent.log; end "not in time: $*"; }
        sleep 1
    done
}

# As a process of a cgroup of its own, as those of a pod are.
client() { sh -c 'echo 0 >/sys/fs/cgroup/client/cgroup.procs && exec "$@"' client "$@"; }
ask() { client wget -q -T 5 -O - "$1"; }
answered() { [ "$(ask "$1")" = "served on arm64" ]; }
refused() { ! ask "$1"; }
ready() { wget -q -O - http://127.0.0.1:5810/readyz || ! kill -0 "$agent"; }

must mkdir -p /proc /sys /dev /run /srv
must mount -t proc proc /proc
must mount -t sysfs sys /sys
must mount -t devtmpfs dev /dev
must mount -t cgroup2 cgroup /sys/fs/cgroup
must mount -t bpf bpf /sys/fs/bpf
must mkdir /sys/fs/cgroup/client
echo 1 >/proc/sys/net/ipv4/ip_forward
must ip link set lo up
for module in /modules/*.ko; do must insmod "$module"; done
must ip link add under0 type dummy
must ip address add 192.168.1.2/24 dev under0
must ip link set under0 up
say "$(uname -r), $(grep -m 1 -o 'Features.*' /proc/cpuinfo | grep -qw atomics && echo with || echo without) atomic instructions (LSE)"
say "$(balancing-agent --version), $(nft --version)"

echo "served on arm64" >/srv/index.html
must httpd -p "[::]:8080" -h /srv
within 30 wget -q -O - http://127.0.0.1:8080/
must refused http://192.0.2.80/
must refused "http://[2001:db8::80]/"
say "nobody answers at the frontends yet"

balancing-agent run --source dir:/objects --node-name arm64 >/tmp/agent.log 2>&1 &
agent=$!
within 300 ready
must kill -0 "$agent"
say "the programs of the socket hooks are loaded, the agent is ready"
must answered http://192.0.2.80/
must answered "http://[2001:db8::80]/"
say "a connect to 192.0.2.80:80 and one to [2001:db8::80]:80 were redirected and answered"
say "frontends:"
balancingctl frontends

mv /fabric.yaml /objects/
is_member() { balancingctl fabric | grep -q '^State: *member'; }
within 120 is_member
must ip link show balancing0
say "the proxy's programs are loaded, too: without them there would be no tunnel device"
must balancingctl doctor
cat /tmp/step

kill -9 "$agent"
must answered http://192.0.2.80/
say "redirected without the agent, too"
must balancing-agent cleanup
must refused http://192.0.2.80/
must [ ! -e /sys/fs/bpf/balancing ]
end passed
