# Helpers shared by the parts of tests/setup.sh; sourced, never run.
# shellcheck shell=bash disable=SC2034

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
