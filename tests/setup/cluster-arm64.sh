# Part `cluster-arm64`: what emulates an arm64 machine. QEMU is unpacked from Debian's packages into the cache.
# shellcheck shell=bash disable=SC2154

qemu="$cache/cluster/qemu-arm64"
programs=(mmdebstrap:mmdebstrap jq:jq cpio:cpio xz:xz-utils)

ready() { has_commands "${programs[@]}" && "$qemu/run" --version >/dev/null 2>&1; }

install() {
    need_commands "${programs[@]}"
    "$qemu/run" --version >/dev/null 2>&1 || unpack_qemu
}

unpack_qemu() {
    local packages="$qemu/packages" libraries="$qemu/packages/usr/lib/x86_64-linux-gnu"
    say "unpacking QEMU for arm64 of Debian trixie"
    rm -rf "$qemu"
    mkdir -p "$qemu"
    mmdebstrap --quiet --variant=extract --include=qemu-system-arm trixie "$packages" http://deb.debian.org/debian >&2 ||
        fail "QEMU could not be unpacked"
    cat >"$qemu/run" <<R
#!/bin/sh
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$packages/usr/bin/qemu-system-aarch64" \\
    -L "$packages/usr/share/qemu" "\$@"
R
    chmod 755 "$qemu/run"
}
