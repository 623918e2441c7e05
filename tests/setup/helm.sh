# Part `helm`: Helm, which renders, checks and installs the chart (tests/tools/helm/go.mod). The build takes two minutes
# of processor time.
# shellcheck shell=bash disable=SC2154

use_go_module tests/tools/helm helm
helm=$(sed -n 's|^[[:space:]]*helm.sh/helm/v4 \(v[0-9.]*\).*|\1|p' "$module/go.mod")

ready() { go_tools_linked && [ -x "$module/bin/helm" ]; }

install() {
    # What it says of itself; a chart may ask for it.
    [ -x "$tools_built/helm" ] || build_go_tools "-s -w -X helm.sh/helm/v4/internal/version.version=$helm"
    link_go_tools
}
