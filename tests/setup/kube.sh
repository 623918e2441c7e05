# Part `kube`: a Kubernetes control plane for the tests: API server, controller manager, scheduler, kubectl
# and etcd (tests/tools/kube/go.mod). The first build takes 5 to 8 minutes of processor time.
# shellcheck shell=bash disable=SC2154

use_go_module tests/tools/kube kube
kubernetes=$(sed -n 's|^[[:space:]]*k8s.io/kubernetes \(v[0-9.]*\).*|\1|p' "$module/go.mod")

ready() { go_tools_linked && [ -x "$module/bin/kube-apiserver" ] && [ -x "$module/bin/etcd" ]; }

install() {
    # What the programs say of themselves; kubectl and the API server compare it with each other.
    [ -x "$tools_built/kube-apiserver" ] ||
        build_go_tools "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes" server:etcd
    link_go_tools
}
