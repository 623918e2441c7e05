# Part `go`: the test tools written in Go (tests/tools/go.mod), and libcni of several generations (tests/tools/libcni).
# shellcheck shell=bash disable=SC2034,SC2154

use_go_module tests/tools tools "$repository"/tests/tools/skel/*.go "$repository"/tests/tools/libcni/{,*/}{go.mod,go.sum,*.go}
more_modules=("$module"/libcni/*/)

ready() { go_tools_linked && [ -x "$module/bin/cnitool" ]; }

install() {
    [ -x "$tools_built/cnitool" ] || build_go_tools '-s -w'
    link_go_tools
}
