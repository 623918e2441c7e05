# Part `flannel`: flannel, an overlay beside which the fabric is tested (tests/tools/flannel/go.mod). The build
# takes a few minutes of processor time.
# shellcheck shell=bash disable=SC2034,SC2154

use_go_module tests/tools/flannel flannel
# One of its backends, which the tests do not use, is written in C.
cgo=1

ready() { go_tools_linked && [ -x "$module/bin/flannel" ] && has iptables; }

install() {
    # It calls this even where it works with nftables.
    need_commands iptables:iptables
    if ! [ -x "$tools_built/flannel" ]; then
        need_commands cc:gcc
        build_go_tools '-s -w'
    fi
    link_go_tools
}
