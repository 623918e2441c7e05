# Part `coredns`: CoreDNS for the test cluster (tests/tools/coredns). The build takes 2 minutes of processor time.
# shellcheck shell=bash disable=SC2154

use_go_module tests/tools/coredns coredns "$repository/tests/tools/coredns/main.go"

ready() { go_tools_linked && [ -x "$module/bin/coredns" ]; }

install() {
    [ -x "$tools_built/coredns" ] || build_go_tools '-s -w'
    link_go_tools
}
