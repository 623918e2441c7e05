# Part `node`: what makes a machine a node of the test cluster: kubelet and kube-proxy (tests/tools/node/go.mod), the
# same version as part `kube`. The build takes 5 minutes of processor time, 2 where `kube` was built before.
# shellcheck shell=bash disable=SC2154

use_go_module tests/tools/node node
kubernetes=$(sed -n 's|^[[:space:]]*k8s.io/kubernetes \(v[0-9.]*\).*|\1|p' "$module/go.mod")

ready() { go_tools_linked && [ -x "$module/bin/kubelet" ]; }

install() {
    [ -x "$tools_built/kubelet" ] || build_go_tools "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes"
    link_go_tools
}
