# Another product's program on the root cgroup of a node, where those of Cilium and Calico sit: attached after ours and
# before, with BPF_F_ALLOW_MULTI and alone (flags 0). It redirects a frontend of its own; the program is that of a
# second agent with tables of its own.
# shellcheck shell=bash disable=SC2154

there=$nodes

other_policy() {
    cat <<P
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata: {name: others}
spec:
  frontend: {addressMatcher: {ip: 10.98.0.1, toPorts: [{port: "80", protocol: TCP}]}}
  backend:
    addressEndpoint:
      addresses: [{ip: $gateway, weight: 1}]
      toPorts: [{port: "9001", protocol: TCP}]
P
}

# Loads it; the second agent hooks an empty cgroup only, and ends.
provide_other() {
    local ready=yes
    daemon other "$(probe_for x86_64-unknown-linux-musl)" serve 9001 other
    put "$there" 'cat >/root/balancing.deb && dpkg-deb -x /root/balancing.deb /root/other' <"$(newest_deb)"
    other_policy | put "$there" 'mkdir -p /root/policies /sys/fs/cgroup/other /sys/fs/bpf/other && cat >/root/policies/others.yaml'
    on "$there" 'systemd-run --quiet --unit other /root/other/usr/bin/balancing-agent run --source dir:/root/policies --node-name other \
        --cgroup-root /sys/fs/cgroup/other --bpffs /sys/fs/bpf/other --run-dir /run/other --http off --metrics off'
    within 90 on "$there" /root/other/usr/bin/balancingctl --run-dir /run/other --bpffs /sys/fs/bpf/other doctor || ready=no
    # Two agents on one host would quarrel about what there is one of.
    on "$there" systemctl stop other
    [ "$ready" = yes ]
}

# attach_other [multi]: its two hooks that TCP over IPv4 needs.
attach_other() { on "$there" "for hook in connect4 getpeername4; do bpftool cgroup attach /sys/fs/cgroup \$hook pinned $programs/\$hook $1 || exit 1; done"; }
detach_other() { on "$there" "for hook in connect4 getpeername4; do bpftool cgroup detach /sys/fs/cgroup \$hook pinned $programs/\$hook; done"; }

# Everything of ours is gone, as after a boot, and the agent begins anew. A running one would put back what is removed.
begin_anew() {
    on "$there" 'pkill -9 -f "^/usr/local/bin/balancing-agent run" || exit 1; rm -rf /sys/fs/bpf/balancing /sys/fs/bpf/balancing-*'
}

# attached WANTED: whose programs run on the node's root cgroup at connect4, in the order of attachment.
attached() {
    local id names=''
    for id in $(on "$there" 'bpftool cgroup show /sys/fs/cgroup' | awk '$2 ~ /inet4_connect/ { print $1 }'); do
        names+="$([ "$id" = "$other" ] && echo other || echo ours) "
    done
    [ "$names" = "$1 " ] || { echo "attached: $names" && return 1; }
}

ours_works() { asks "m$there" 169.254.169.254:80 "metadata-on-$there" && asks "g$there" 10.99.0.3:80 address; }
both_work() { ours_works && asks "m$there" 10.98.0.1:80 other; }
refused_openly() { balancingctl "$there" status -o json | grep -q 'ALLOW_MULTI'; }

prove() {
    local programs other
    daemon address "$(probe_for x86_64-unknown-linux-musl)" serve 9000 address
    apply_policies
    provide_other
    programs=$(on "$there" 'find /sys/fs/bpf/other -type d -name progs')

    within 30 ours_works
    other=$(on "$there" "bpftool -j prog show pinned $programs/connect4" | jq .id)
    attach_other multi
    attached 'ours other'
    both_work
    say "after ours, multi: both work"
    begin_anew
    within 120 attached 'other ours'
    within 120 both_work
    say "before ours, multi: both work"
    detach_other
    attach_other '' >"$work/refused" 2>&1 || true
    cat "$work/refused"
    attached ours
    ours_works
    say "alone, after ours: the kernel refuses it"
    # The kernel detaches ours shortly after the agent's end; the kubelet's next one must wait until the other is there.
    on "$there" systemctl stop kubelet
    begin_anew
    within 20 attach_other ''
    on "$there" systemctl start kubelet
    attached other
    within 120 refused_openly
    begin_pod beside "$there" || true
    within 90 equal 1 pods_that_end beside
    say "alone, before ours: pods start, and the agent says who is in the way"
    balancingctl "$there" doctor || true
    detach_other
    within 120 ours_works
    say "and hooks them by itself once it is gone"
    kubectl delete pod beside >/dev/null
    on "$there" 'rm -rf /sys/fs/bpf/other /run/other /root/other; rmdir /sys/fs/cgroup/other'
    delete_policies
}

# How many containers of that pod have run to their end, whatever they have seen.
pods_that_end() { kubectl get pod "$1" -o json | jq '[.status.containerStatuses[]?.state.terminated] | map(select(. != null)) | length'; }
