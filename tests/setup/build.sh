# Part `build`: a C toolchain, a Rust compiler that can build BPF programs, and bpf-linker.
# shellcheck shell=bash disable=SC2154
#
# A BPF-capable compiler has the sources of `core` beside it and accepts -Z flags: a rustup nightly with
# rust-src, or Debian's rustc-web with rust-web-src. bpf-linker reads the compiler's bitcode, so it is
# built against the LLVM of the same major version.

bpf_linker_version=0.13.0
bpf_linker_root="$cache/bpf-linker"
c_toolchain=(cc:gcc c++:g++)

rust_floor() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repository/Cargo.toml"; }
rust_version() { "$@" --version 2>/dev/null | cut -d' ' -f2; }

has_core_source() { # RUSTC...
    [ -f "$("$@" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core/Cargo.toml" ]
}

has_nightly() { has rustup && has_core_source rustup run nightly rustc; }

has_debian() {
    [ -x /usr/bin/rustc ] && has_core_source /usr/bin/rustc &&
        version_at_least "$(rust_version /usr/bin/rustc)" "$(rust_floor)"
}

# A bpf-linker that starts, in PATH or in the cache; the build script of bpf/dataplane looks there too.
has_linker() {
    bpf-linker --version >/dev/null 2>&1 || "$bpf_linker_root/bin/bpf-linker" --version >/dev/null 2>&1
}

ready() {
    has_commands "${c_toolchain[@]}" && has_linker && { has_nightly || has_debian; }
}

install() {
    local have
    have=$(cd "$repository" && rust_version rustc)
    version_at_least "$have" "$(rust_floor)" ||
        fail "this project needs Rust $(rust_floor) or newer, found '${have:-none}': get it from https://rustup.rs," \
            "or on Debian: apt-get install cargo-web"
    need_commands "${c_toolchain[@]}"
    has_nightly || has_debian || install_debian
    has_linker || install_linker
}

install_debian() {
    has apt-get && apt_refresh rustc-web rust-web-src
    version_at_least "$(apt_candidate rustc-web)" "$(rust_floor)" ||
        fail "no Rust compiler for BPF: this system has no package rustc-web $(rust_floor) or newer (Debian 12 and 13 have" \
            "it, in their security archive). Install a nightly with the sources of core instead:" \
            "rustup toolchain install nightly --component rust-src"
    apt_install rustc-web rust-web-src
}

install_linker() {
    local version llvm
    if has_nightly; then
        version=$(rustup run nightly rustc -vV)
    else
        version=$(/usr/bin/rustc -vV)
    fi
    llvm=$(sed -n 's/^LLVM version: \([0-9]*\).*/\1/p' <<<"$version")
    if [ ! -x "/usr/lib/llvm-$llvm/bin/llvm-config" ]; then
        has apt-get && apt_refresh "llvm-$llvm-dev"
        [ -n "$(apt_candidate "llvm-$llvm-dev")" ] ||
            fail "no bpf-linker, and no package llvm-$llvm-dev to build it against the compiler's LLVM $llvm." \
                "Put bpf-linker $bpf_linker_version in PATH: cargo binstall bpf-linker, or a binary from" \
                "https://github.com/aya-rs/bpf-linker/releases"
        apt_install "llvm-$llvm-dev"
    fi
    say "cargo install bpf-linker $bpf_linker_version for LLVM $llvm (about a minute)"
    env -u RUSTC -u RUSTFLAGS -u CARGO_TARGET_DIR "LLVM_PREFIX=/usr/lib/llvm-$llvm" \
        cargo install --quiet --locked --version "$bpf_linker_version" --root "$bpf_linker_root" --force \
        --no-default-features --features "llvm-$llvm" bpf-linker </dev/null >&2 ||
        fail "bpf-linker $bpf_linker_version does not build against LLVM $llvm"
}
