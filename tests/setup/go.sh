# Part `go`: the test tools written in Go (tests/tools/go.mod).
# shellcheck shell=bash disable=SC2154

use_go_module tests/tools tools

ready() { go_tools_linked && [ -x "$module/bin/cnitool" ]; }

install() {
    [ -x "$tools_built/cnitool" ] || build_go_tools '-s -w'
    link_go_tools
}
