#!/usr/bin/env bash
# Installs what building and testing this project needs beyond git, make and cargo.
#
#   tests/setup.sh [PART...]     parts: build, run, lint, go, kube, flannel, helm, prometheus (the default), and the others
#                                of tests/setup
#
# Each part is a file in tests/setup/ with two functions: `ready` looks whether the part's tools work,
# `install` brings what is missing. A part that was ready with the present scripts is left alone as long
# as `ready` still holds, so a second run takes a fraction of a second.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/setup" && pwd)
# shellcheck source=tests/setup/lib.sh
source "$here/lib.sh"

key=$(cat "$here"/*.sh "$repository"/tests/tools/{,*/}go.{mod,sum} | sha256sum | cut -c1-16)
mkdir -p "$cache"

[ $# -gt 0 ] || set -- build run lint go kube flannel helm prometheus
for part; do
    [ -f "$here/$part.sh" ] && [ "$part" != lib ] ||
        fail "unknown part '$part': use one of $(cd "$here" && printf '%s\n' *.sh | sed '/^lib\./d; s/\.sh$//' | paste -sd ' ')"
    # A subshell, so that a part's functions and variables end with it.
    (
        # shellcheck source=/dev/null
        source "$here/$part.sh"
        stamp="$cache/setup-$part.stamp"
        if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && ready; then
            exit 0
        fi
        install
        ready || fail "part '$part' was installed, yet its check still fails (tests/setup/$part.sh)"
        echo "$key" >"$stamp"
    )
done
