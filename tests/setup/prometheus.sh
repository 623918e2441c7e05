# Part `prometheus`: Prometheus, which scrapes agents in a test, and promtool, which judges the alert rules
# (tests/tools/prometheus/go.mod). Without service discovery and user interface. The build takes 5 minutes of
# processor time.
# shellcheck shell=bash disable=SC2034,SC2154

use_go_module tests/tools/prometheus prometheus
tags=remove_all_sd

ready() { go_tools_linked && [ -x "$module/bin/prometheus" ] && [ -x "$module/bin/promtool" ]; }

install() {
    [ -x "$tools_built/prometheus" ] || build_go_tools '-s -w'
    link_go_tools
}
