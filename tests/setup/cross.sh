# Part `cross`: what builds for arm64 on another architecture. Only `make image ARCH=arm64` and the like need it.
# shellcheck shell=bash disable=SC2154

cross_target=aarch64-unknown-linux-gnu
programs=(aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu)

has_cross_headers() { [ -f /usr/aarch64-linux-gnu/include/stdio.h ]; }
has_cross_core() { (cd "$repository" && [ -d "$(rustc --print sysroot)/lib/rustlib/$cross_target/lib" ]); }

ready() { has_commands "${programs[@]}" && has_cross_headers && has_cross_core; }

install() {
    need_commands "${programs[@]}"
    has_cross_headers || apt_install libc6-dev-arm64-cross
    if ! has_cross_core; then
        has rustup || fail "no standard library for $cross_target: install it for the Rust compiler in use"
        (cd "$repository" && rustup target add "$cross_target") >&2
    fi
}
