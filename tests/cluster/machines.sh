# The virtual machines of a run, emulated by QEMU without KVM. Sourced.
# shellcheck shell=bash disable=SC2154

# create_network MACHINES
create_network() {
    local number
    ip netns add "$netns"
    ip -n "$netns" link set lo up
    ip -n "$netns" link add br0 type bridge forward_delay 0
    ip -n "$netns" address add "$gateway/24" dev br0
    ip -n "$netns" link set br0 up
    # It is no router: a host outside has no way to pods.
    inside sysctl -qw net.ipv4.ip_forward=0
    for number in $(seq "$1"); do
        ip -n "$netns" tuntap add "tap$number" mode tap
        ip -n "$netns" link set "tap$number" master br0
        ip -n "$netns" link set "tap$number" up
        # Pods reach the API server, and it them.
        ip -n "$netns" route add "10.244.$number.0/24" via "$(address_of "$number")"
    done
}

# kernel_major: of the version that the disk has.
kernel_major() { cut -d. -f1 "$work/kernel-version"; }

# start_machine N MEMORY: on a disk of its own over the common one.
start_machine() {
    local number=$1 disk="$work/disk-$1" more=''
    [ -e "$disk" ] || qemu-img create -q -f qcow2 -b "$work/base.ext4" -F raw "$disk"
    # Exchanges of 16 bytes stop all emulated CPUs. Without them kernels since 7 find memory for a socket's storage only where the
    # allocator checks itself.
    [ "$(kernel_major)" -lt 7 ] || more="slab_debug=F,kmalloc-* damon_stat.enabled=0"
    daemon "machine$number" "$cache/cluster/qemu/run" -accel tcg,thread=multi,tb-size=256 -cpu max,-cx16,-la57,-pku \
        -smp 2 -m "$2" -nodefaults -no-user-config -display none -kernel "$work/vmlinuz" -initrd "$work/initrd" \
        -append "console=ttyS0 quiet net.ifnames=0 mitigations=off nokaslr audit=0 apparmor=0 random.trust_cpu=on tsc=reliable systemd.show_status=0 panic=5 $more" \
        -drive "if=none,id=disk,file=$disk,format=qcow2,cache=unsafe" -device virtio-blk-pci,drive=disk \
        -drive "if=none,id=seed,file=$work/seed$number.tar,format=raw,readonly=on" -device virtio-blk-pci,drive=seed \
        -netdev "tap,id=net,ifname=tap$number,script=no,downscript=no" \
        -device "virtio-net-pci,netdev=net,mac=52:54:00:00:00:$(printf '%02x' "$number"),romfile=" \
        -device virtio-rng-pci -serial "file:$work/log/console$number"
}

# stop_all: every process of the run, by its pid.
stop_all() {
    local file pid
    for file in "$work"/pids/*; do
        [ -e "$file" ] || continue
        pid=$(<"$file")
        # The session's leader has the pid; none of it may outlive the run. What nobody waits for stays a zombie.
        ! lives "${file##*/}" || kill -9 -- "-$pid" 2>/dev/null || true
        for _ in $(seq 100); do
            lives "${file##*/}" || break
            sleep 0.1
        done
        rm "$file"
    done
}

# tear_down: nothing of the run is left.
tear_down() {
    local socket
    for socket in "$work"/ssh-*; do
        [ ! -S "$socket" ] || ssh -q -o "ControlPath=$socket" -O exit e2e 2>/dev/null || true
    done
    stop_all
    ip netns delete "$netns" 2>/dev/null || true
    rm -rf "$work"
}
