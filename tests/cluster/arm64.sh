#!/usr/bin/env bash
# The arm64 image on a machine that QEMU emulates: its programs load, and connects are redirected.
#
#   tests/cluster/arm64.sh [ARCHIVE]     of `make image ARCH=arm64`; target/image/balancing-arm64.tar by default
#
# The machine is a kernel of Debian and an initramfs of the image's files, busybox and tests/cluster/arm64. It has neither
# disk nor network. It runs twice, because the kernel compiles atomic operations in two ways: on a CPU without and on one with LSE.
set -euo pipefail

# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"
archive=${1:-$repository/target/image/balancing-arm64.tar}
qemu="$cache/cluster/qemu-arm64/run"
kernel="$cache/cluster/kernel-arm64"
work=$(mktemp -d "${TMPDIR:-/tmp}/balancing-arm64.XXXXXX")
machine=''

end() {
    local status=$?
    trap - EXIT INT TERM
    # `timeout` passes it on.
    [ -z "$machine" ] || { kill "$machine" && wait "$machine"; } 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT TERM

# What a fabric needs and the kernel has not built in, those first that others need.
modules=(dummy udp_tunnel ip6_udp_tunnel vxlan nfnetlink libcrc32c nf_tables)

# provide_kernel: with modules and a busybox beside it, kept in the cache.
provide_kernel() {
    local index file
    [ ! -e "$kernel/done" ] || return 0
    say "the arm64 kernel of Debian trixie"
    rm -rf "$kernel"
    mkdir -p "$kernel"
    mmdebstrap --quiet --variant=extract --architectures=arm64 --include=linux-image-cloud-arm64,busybox-static trixie \
        "$work/packages" http://deb.debian.org/debian || die "the kernel could not be unpacked"
    mv "$work"/packages/boot/vmlinuz-* "$kernel/vmlinuz"
    mv "$work/packages/usr/bin/busybox" "$kernel/busybox"
    mkdir "$kernel/modules"
    for index in "${!modules[@]}"; do
        file=$(find "$work/packages/usr/lib/modules" -name "${modules[index]}.ko.xz")
        xz -dc "$file" >"$kernel/modules/$index-${modules[index]}.ko"
    done
    rm -rf "$work/packages"
    touch "$kernel/done"
}

# image_file DIGEST: a blob's path.
image_file() { echo "$work/image/blobs/${1/://}"; }

# make_initramfs: $work/initramfs.
make_initramfs() {
    local manifest layer
    mkdir -p "$work/image" "$work/root/bin" "$work/root/objects"
    tar -xf "$archive" -C "$work/image"
    manifest=$(jq -r '.manifests[0].digest' "$work/image/index.json")
    jq -e '.manifests[0].platform.architecture == "arm64"' "$work/image/index.json" >/dev/null || die "$archive is not for arm64"
    layer=$(jq -r '.layers[0].digest' "$(image_file "$manifest")")
    tar -xzf "$(image_file "$layer")" -C "$work/root"
    cp "$kernel/busybox" "$work/root/bin/busybox"
    cp "$here/arm64/init.sh" "$work/root/init"
    cp -r "$kernel/modules" "$here/arm64/fabric.yaml" "$work/root/"
    cp "$here/arm64/objects.yaml" "$work/root/objects/"
    (cd "$work/root" && find . | cpio --quiet -o -H newc -R 0:0) >"$work/initramfs"
    say "image $manifest"
}

# run_machine CPU: until it turns itself off.
run_machine() {
    local console="$work/console-$1"
    say "a machine with the CPU $1"
    timeout 900 "$qemu" -accel tcg,tb-size=128 -machine virt -cpu "$1" -smp 1 -m 768 -nodefaults -no-user-config \
        -display none -no-reboot -kernel "$kernel/vmlinuz" -initrd "$work/initramfs" \
        -append "console=ttyAMA0 quiet panic=-1" -serial "file:$console" </dev/null &
    machine=$!
    wait "$machine" || say "QEMU ended with status $?"
    machine=''
    tr -d '\r' <"$console" | sed -n '/^arm64:/,$p'
    tr -d '\r' <"$console" | grep -qx 'arm64: passed' || die "failed on the CPU $1"
}

[ -f "$archive" ] || die "no $archive: run make image ARCH=arm64"
mkdir -p "$cache/cluster"
provide_kernel
make_initramfs
# pauth: emulating the architecture's own algorithm takes most of the time.
for cpu in cortex-a72 max,pauth-impdef=on; do run_machine "$cpu"; done
say "the arm64 image passed"
