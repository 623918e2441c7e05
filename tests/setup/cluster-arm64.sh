# Part `cluster-arm64`: what emulates an arm64 machine. QEMU is unpacked from Debian's packages into the cache.
# shellcheck shell=bash disable=SC2154

qemu="$cache/cluster/qemu-arm64"
programs=(mmdebstrap:mmdebstrap jq:jq cpio:cpio xz:xz-utils)

ready() { has_commands "${programs[@]}" && "$qemu/run" --version >/dev/null 2>&1; }

install() {
    need_commands "${programs[@]}"
    "$qemu/run" --version >/dev/null 2>&1 || unpack_qemu qemu-system-arm qemu-system-aarch64
}
