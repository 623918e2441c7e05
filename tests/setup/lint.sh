# Part `lint`: rustfmt and clippy of the Rust toolchain in use.
# shellcheck shell=bash disable=SC2154

ready() { (cd "$repository" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1; }

install() {
    if ready; then
        return
    elif has rustup; then
        say "rustup component add rustfmt clippy"
        (cd "$repository" && rustup component add rustfmt clippy) >&2
    else
        apt_install rustfmt-web rust-web-clippy
    fi
}
