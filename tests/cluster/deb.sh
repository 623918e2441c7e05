#!/usr/bin/env bash
# The Debian package in a Debian trixie in which systemd does not run: installed, upgraded, removed, purged. The case
# `outside` of run.sh has it under systemd.
#
#   tests/cluster/deb.sh [PACKAGE]     of `make deb`; that of this version by default
set -euo pipefail

# shellcheck source=tests/cluster/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/disk.sh
source "$here/disk.sh"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)
package=${1:-$repository/target/deb/balancing_${version}_amd64.deb}
[ -f "$package" ] || die "no $package: run make deb"
work=$(mktemp -d "${TMPDIR:-/tmp}/balancing-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

mkdir -p "$cache/cluster" "$work/root"
# shellcheck disable=SC2154  # what provide_rootfs sets
provide_rootfs && tar -xf "$rootfs" -C "$work/root"
cp "$package" "$work/root/package.deb"
cp "$here/deb/steps.sh" "$work/root/steps.sh"
# shellcheck disable=SC2016  # its own script
root="$work/root" unshare --mount --pid --fork --kill-child bash -euc 'mount -t proc proc "$root/proc" && chroot "$root" bash /steps.sh'
say "the package $(basename "$package") passed"
