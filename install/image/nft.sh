#!/usr/bin/env bash
# nftables' `nft`, which the fabric's filter is written with, and the libraries that it needs, from the packages of
# Debian stable, with the copyright files of the packages. Tells names, versions, licenses and distribution.
#
#   install/image/nft.sh amd64|arm64 ROOT
set -euo pipefail
here=$(dirname "$0")

suite=trixie
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Unpacked, never run: so any architecture will do.
mmdebstrap --quiet --variant=extract --architectures="$1" --include=nftables --format=directory \
    --skip=cleanup/apt/cache \
    --aptopt='APT::Install-Recommends "false"' "$suite" "$work/root" "$mirror" >&2

# needs FILE: the libraries that it asks for.
needs() { readelf -d "$1" | sed -n '/ld-linux/d; s/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
queue=("$work/root/usr/sbin/nft")
loader=$(readelf -l "${queue[0]}" | sed -n 's/.*interpreter: \(.*\)\]/\1/p')
declare -A taken
while [ ${#queue[@]} -gt 0 ]; do
    file=$(readlink -f "${queue[0]}") name=${queue[0]##*/}
    queue=("${queue[@]:1}")
    [ -z "${taken[$name]:-}" ] || continue
    taken[$name]=1
    case $name in
        nft) install -D -m 755 "$file" "$2/usr/sbin/nft" ;;
        *) install -D -m 755 "$file" "$2/usr/lib/$name" ;;
    esac
    while read -r library; do
        found=$(find "$work/root" -name "$library" -print -quit)
        [ -n "$found" ] || { echo "nft needs $library, which is in none of its packages" >&2 && exit 1; }
        queue+=("$found")
    done < <(needs "$file")
done
install -D -m 755 "$(find "$work/root" -name "${loader##*/}" -type f -print -quit)" "$2$loader"
# The packages of which something was taken.
for package in "$work"/root/var/cache/apt/archives/*.deb; do
    dpkg-deb --contents "$package" >"$work/contents"
    for name in "${!taken[@]}"; do
        if grep -qE "/$name( -> .*)?\$" "$work/contents"; then
            name=$(dpkg-deb --field "$package" Package)
            install -D -m 644 "$work/root/usr/share/doc/$name/copyright" "$2/usr/share/doc/$name/copyright"
            printf '%s\t%s\t%s\tdebian\n' "$name" "$(dpkg-deb --field "$package" Version)" \
                "$("$here/licenses.sh" "$2/usr/share/doc/$name/copyright")"
            break
        fi
    done
done | sort -u
