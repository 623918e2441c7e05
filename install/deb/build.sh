#!/usr/bin/env bash
# The Debian package for hosts outside a cluster.
#
#   install/deb/build.sh [--arch amd64|arm64] [--out DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/../.."

arch=amd64 out=target/deb
while [ $# -gt 0 ]; do
    case $1 in
        --arch) arch=$2 ;;
        --out) out=$2 ;;
        *) echo "unknown argument $1: see the head of $0" >&2 && exit 64 ;;
    esac
    shift 2
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# dpkg-deb gives files no younger time than this one.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
install/image/binaries.sh "$arch" "$root/usr/bin"
install -d -m 755 "$root/usr/lib/systemd/system" "$root/etc/balancing" "$root/DEBIAN" \
    "$root/usr/share/doc/balancing"
sed '1,/^\[Unit\]/{/^#/d}; s#/usr/local/bin/#/usr/bin/#' install/systemd/balancing-agent.service \
    >"$root/usr/lib/systemd/system/balancing-agent.service"
install -m 600 install/systemd/agent.env "$root/etc/balancing/agent.env"
install -m 755 install/external-host-kubeconfig.sh "$root/usr/share/doc/balancing/"
install -m 644 LICENSE "$root/usr/share/doc/balancing/copyright"
size=$(find "$root/usr" "$root/etc" -type f -printf '%s\n' | awk '{ sum += $1 } END { print int((sum + 1023) / 1024) }')
cat >"$root/DEBIAN/control" <<K
Package: balancing
Version: $version
Architecture: $arch
Maintainer: The authors of Balancing <balancing@balancing.elf.io>
Installed-Size: $size
Depends: nftables
Section: net
Priority: optional
Description: client-side layer-4 load balancing for Kubernetes
 Rewrites the destination of connections as they are made, by BPF programs: to a pod on the same node, or to any
 backend of a policy. This package makes a host outside the cluster take part.
K
echo /etc/balancing/agent.env >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "install/deb/$script" "$root/DEBIAN/$script"
done
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/balancing_${version}_$arch.deb"
