# The disk that all machines of a run start from: Debian and a kernel of choice; for nodes also containerd, kubelet, CNI
# plugins and the images of the test's pods. Sourced.
# shellcheck shell=bash disable=SC2154

mirror=http://deb.debian.org/debian
packages=systemd,systemd-sysv,dbus,kmod,iproute2,iptables,nftables,conntrack,containerd,runc,crun,busybox-static,procps,ca-certificates,tcpdump,bpftool,dropbear-bin,libnss-systemd,docker.io,docker-cli
left_out=(doc man locale info)

# kernel_suite VERSION: the suite that has it, of Debian, or of Ubuntu for the oldest one.
kernel_suite() {
    case $1 in
        5.15) echo jammy ;;
        6.1) echo bookworm ;;
        6.12) echo trixie ;;
        newest) echo trixie-backports ;;
        *) die "KERNEL=$1: use 5.15, 6.1, 6.12 or newest" ;;
    esac
}

# provide_rootfs: the userland as a tar, kept in the cache.
provide_rootfs() {
    rootfs="$cache/cluster/rootfs-$(sha256sum <<<"$packages ${left_out[*]}" | cut -c1-16).tar"
    [ ! -e "$rootfs" ] || return 0
    rm -f "$cache"/cluster/rootfs-*
    say "Debian trixie, about a minute"
    INITRD=No mmdebstrap --quiet --variant=minbase --format=tar --aptopt='APT::Install-Recommends "false"' \
        "${left_out[@]/#/--dpkgopt=path-exclude=/usr/share/}" --include="$packages" trixie "$rootfs.new" "$mirror" ||
        die "Debian could not be unpacked"
    mv "$rootfs.new" "$rootfs"
}

# unpack_kernel SUITE DIRECTORY
unpack_kernel() {
    local ubuntu=http://archive.ubuntu.com/ubuntu keyring=usr/share/keyrings/ubuntu-archive-keyring.gpg
    if [ "$1" != jammy ]; then
        mmdebstrap --quiet --variant=extract --include="linux-image-cloud-amd64/$1" "${1%-backports}" "$2" \
            "deb $mirror ${1%-backports} main" "deb $mirror $1 main"
        return
    fi
    # Debian vouches for Ubuntu's key.
    mmdebstrap --quiet --variant=extract --include=ubuntu-archive-keyring trixie "$2.key" "$mirror" &&
        mmdebstrap --quiet --variant=extract --keyring="$2.key/$keyring" --include=linux-image-virtual "$1" "$2" \
            "deb $ubuntu $1 main" "deb $ubuntu $1-updates main" &&
        rm -rf "$2.key"
}

# provide_kernel VERSION: its image and modules, kept in the cache for the day; a suite moves on.
provide_kernel() {
    local suite
    suite=$(kernel_suite "$1")
    kernel="$cache/cluster/kernel-$suite"
    [ -z "$(find "$kernel/done" -mmin -1440 2>/dev/null)" ] || return 0
    say "the kernel of $suite"
    rm -rf "$kernel"
    mkdir -p "$kernel"
    unpack_kernel "$suite" "$kernel/all" || die "the kernel of $suite could not be unpacked"
    mv "$kernel"/all/usr/lib/modules "$kernel/modules" 2>/dev/null || mv "$kernel"/all/lib/modules "$kernel/modules"
    mv "$kernel"/modules/*/vmlinuz "$kernel/vmlinuz" 2>/dev/null || mv "$kernel"/all/boot/vmlinuz-* "$kernel/vmlinuz"
    rm -rf "$kernel/all"
    touch "$kernel/done"
}

# plain_module NAME: prints the module, unpacked.
plain_module() {
    local file
    file=$(find "$root/usr/lib/modules" -name "$1.ko*" | head -n 1)
    case $file in
        *.xz) xz -dc "$file" ;;
        *) cat "$file" ;;
    esac
}

# make_initrd: finds the disk and hands over. Modules that a kernel has built in are not among its files.
make_initrd() {
    local module directory="$work/initrd.d"
    mkdir -p "$directory"/{bin,dev,new}
    cp "$root/usr/bin/busybox" "$directory/bin/busybox"
    for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 crc32c_generic libcrc32c mbcache jbd2 ext4; do
        plain_module "$module" >"$directory/$module.ko" 2>/dev/null || true
        [ ! -s "$directory/$module.ko" ] || echo "/bin/busybox insmod /$module.ko"
    done >"$work/insmod"
    {
        printf '#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n'
        cat "$work/insmod"
        printf 'until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done\n/bin/busybox mount -t ext4 -o noatime /dev/vda /new\n'
        printf '/bin/busybox mount --move /dev /new/dev\nexec /bin/busybox switch_root /new /sbin/init\n'
    } >"$directory/init"
    chmod 755 "$directory/init"
    find "$directory" -name '*.ko' -empty -delete
    (cd "$directory" && find . | cpio --quiet -o -H newc) >"$work/initrd"
    rm -rf "$directory"
}

# pack_image NAME DIRECTORY COMMAND...: an image of one layer, in the form of `docker save`.
pack_image() {
    local name=$1 directory=$2 out layer
    shift 2
    out="$work/images/$(basename "$name" | tr : -)"
    mkdir -p "$out"
    tar -C "$directory" --owner=0 --group=0 --mtime=@0 --sort=name -cf "$out/layer.tar" .
    layer=$(sha256sum "$out/layer.tar" | cut -d' ' -f1)
    jq -cn --arg layer "sha256:$layer" '{architecture: "amd64", os: "linux",
        config: {Entrypoint: $ARGS.positional, Env: ["PATH=/bin"]},
        rootfs: {type: "layers", diff_ids: [$layer]}, history: [{created_by: "tests/cluster"}]}' --args "$@" >"$out/config.json"
    jq -cn --arg name "$registry/$name" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' >"$out/manifest.json"
    tar -C "$out" -cf "$work/images/$(basename "$name" | tr : -).tar" manifest.json config.json layer.tar
    rm -r "$out"
}

# probe_for TARGET: prints where it is.
probe_for() {
    local probe="$repository/target/cluster/$1/release/cluster-probe"
    [ -x "$probe" ] || die "no probe: tests/cluster/build.sh probe"
    echo "$probe"
}

# Images of the pods: one that does nothing, and the probe with the resolver of musl and of glibc.
make_images() {
    local staging="$work/staging" libraries="$root/usr/lib/x86_64-linux-gnu" file libc
    mkdir -p "$work/images"
    for libc in musl gnu; do
        mkdir -p "$staging/$libc"/{bin,tmp,etc,proc,sys,dev}
        cp "$root/usr/bin/busybox" "$staging/$libc/bin/"
        for file in sh sleep kill ls cat nslookup wget; do ln -s busybox "$staging/$libc/bin/$file"; done
        cp "$(probe_for "x86_64-unknown-linux-$libc")" "$staging/$libc/bin/cluster-probe"
    done
    mkdir -p "$staging/gnu/lib64" "$staging/gnu/lib/x86_64-linux-gnu"
    for file in libc.so.6 libgcc_s.so.1 libm.so.6; do cp -L "$libraries/$file" "$staging/gnu/lib/x86_64-linux-gnu/"; done
    cp -L "$libraries/ld-linux-x86-64.so.2" "$staging/gnu/lib64/"
    echo 'hosts: files dns' >"$staging/gnu/etc/nsswitch.conf"
    cp "$staging/musl/bin/cluster-probe" "$root/usr/local/bin/"
    pack_image probe-musl:1 "$staging/musl" /bin/cluster-probe
    pack_image probe-glibc:1 "$staging/gnu" /bin/cluster-probe
    mkdir -p "$staging/pause/bin" "$staging/coredns"
    cp "$staging/musl/bin/cluster-probe" "$staging/pause/bin/"
    pack_image pause:1 "$staging/pause" /bin/cluster-probe pause
    cp "$tools/coredns/bin/coredns" "$staging/coredns/"
    pack_image coredns:1 "$staging/coredns" /coredns
    cp "$repository/target/cluster/image/balancing-amd64.tar" "$work/images/balancing.tar"
    rm -r "$staging"
}

# bake_images: into the node's store, by the node's own containerd, in a mount namespace of its own.
bake_images() {
    # shellcheck disable=SC2016  # its own script
    root=$root work=$work unshare --mount --pid --fork --kill-child bash -euc '
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount -t tmpfs tmp "$root/tmp"
        mount -t tmpfs run "$root/run"
        mkdir "$root/tmp/images"
        mount --bind "$work/images" "$root/tmp/images"
        cat >"$root/run/bake.toml" <<C
version = 2
root = "/var/lib/containerd"
state = "/run/bake"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/bake.sock"
[ttrpc]
address = "/run/bake-t.sock"
C
        chroot "$root" containerd --config /run/bake.toml --log-level warn >"$work/log/bake" 2>&1 &
        until [ -S "$root/run/bake.sock" ]; do sleep 0.1; kill -0 $!; done
        for file in "$work"/images/*.tar; do
            chroot "$root" ctr --address /run/bake.sock --namespace k8s.io images import --snapshotter overlayfs "/tmp/images/${file##*/}" >>"$work/log/bake"
        done
        kill $!
        wait $! || true'
}

# What costs time under emulation and does nothing for a node.
masked=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    systemd-timesyncd.service getty.target getty@tty1.service serial-getty@ttyS0.service systemd-journal-flush.service
    systemd-random-seed.service systemd-update-utmp.service systemd-binfmt.service systemd-pcrphase.service
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
    dev-hugepages.mount dev-mqueue.mount systemd-hwdb-update.service systemd-tmpfiles-clean.timer systemd-firstboot.service
    systemd-sysusers.service systemd-logind.service systemd-update-done.service systemd-remount-fs.service
    systemd-user-sessions.service systemd-journal-catalog-update.service ldconfig.service kmod-static-nodes.service)

# make_root VERSION-OF-KERNEL: Debian with that kernel, reached by ssh and told by its second disk what it is: $root.
make_root() {
    local unit
    provide_rootfs
    provide_kernel "$1"
    root="$work/root"
    mkdir "$root"
    tar -xf "$rootfs" -C "$root"
    cp -a "$kernel/modules" "$root/usr/lib/"
    cp "$kernel/vmlinuz" "$work/vmlinuz"
    ls "$root/usr/lib/modules" >"$work/kernel-version"
    depmod -b "$root" "$(<"$work/kernel-version")"
    cp -r "$here/node/." "$root/"
    mkdir -p "$root/root/.ssh" "$root/etc/dropbear"
    install -m 600 "$work/pki/ssh.pub" "$root/root/.ssh/authorized_keys"
    chmod 700 "$root/root" "$root/root/.ssh"
    : >"$root/etc/fstab"
    : >"$root/etc/machine-id"
    rm -f "$root/etc/resolv.conf"
    echo "nameserver $cluster_dns" >"$root/etc/resolv.conf"
    sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    # It is started where it is used: it costs time, and closes the node's filter for what is forwarded.
    rm -f "$root"/etc/systemd/system/*.wants/docker.*
    for unit in "${masked[@]}"; do ln -sfn /dev/null "$root/etc/systemd/system/$unit"; done
    ln -sf /etc/systemd/system/{boot,dropbear}.service "$root/etc/systemd/system/multi-user.target.wants/"
    ln -sfn /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
}

# add_node: what a node needs beyond that.
add_node() {
    local plugin
    mkdir -p "$root"/opt/cni/bin "$root"/etc/cni/net.d "$root"/opt/containerd2
    cp "$tools"/node/bin/{kubelet,kube-proxy} "$root/usr/local/bin/"
    for plugin in bridge host-local loopback portmap bandwidth; do cp "$tools/bin/$plugin" "$root/opt/cni/bin/"; done
    [ "$cni" != flannel ] || cp "$tools/flannel/bin/flannel" "$root/usr/local/bin/flanneld"
    [ "$runtime" = 1.7 ] || cp "$tools"/containerd/bin/{containerd,containerd-shim-runc-v2} "$root/opt/containerd2/"
    make_images
    bake_images
}

# finish_disk: $work/base.ext4 and $work/initrd.
finish_disk() {
    make_initrd
    truncate -s 5G "$work/base.ext4"
    mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -E lazy_itable_init=1 -d "$root" "$work/base.ext4"
    rm -rf "$root"
}
