# Part `cluster`: what builds and emulates the machines of the test cluster. QEMU is unpacked from Debian's packages into
# the cache: the one of an older Debian does not run newer kernels well.
# shellcheck shell=bash disable=SC2154

qemu="$cache/cluster/qemu"
musl=x86_64-unknown-linux-musl
programs=(mmdebstrap:mmdebstrap qemu-img:qemu-utils ssh:openssh-client mke2fs:e2fsprogs xz:xz-utils depmod:kmod jq:jq
    openssl:openssl cpio:cpio)

has_musl() { (cd "$repository" && [ -d "$(rustc --print sysroot)/lib/rustlib/$musl/lib" ]); }

ready() { has_commands "${programs[@]}" && has_musl && "$qemu/run" --version >/dev/null 2>&1; }

install() {
    need_commands "${programs[@]}"
    if ! has_musl; then
        has rustup || fail "no standard library for $musl: install it for the Rust compiler in use"
        (cd "$repository" && rustup target add "$musl") >&2
    fi
    "$qemu/run" --version >/dev/null 2>&1 || unpack_qemu qemu-system-x86 qemu-system-x86_64
}
