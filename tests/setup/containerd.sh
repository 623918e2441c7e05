# Part `containerd`: containerd 2 and its shim for the test cluster (tests/tools/containerd/go.mod); Debian has 1.7. The
# build takes 2 minutes of processor time.
# shellcheck shell=bash disable=SC2034,SC2154

use_go_module tests/tools/containerd containerd "$repository/tests/setup/containerd.sh"
# Snapshotters that need libraries of C.
tags=no_btrfs,no_devmapper,no_zfs

ready() { go_tools_linked && [ -x "$module/bin/containerd" ]; }

install() {
    [ -x "$tools_built/containerd" ] || build_go_tools '-s -w'
    link_go_tools
}
