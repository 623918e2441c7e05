# The control plane of a run, as processes in its network namespace. Sourced.
# shellcheck shell=bash disable=SC2154

# daemon NAME COMMAND...: runs in the namespace from now on, in a session of its own; its log is $work/log/NAME.
daemon() {
    local name=$1
    shift
    ! lives "$name" || return 0
    setsid nsenter --net="/run/netns/$netns" "$@" >"$work/log/$name" 2>&1 </dev/null &
    echo $! >"$work/pids/$name"
    # The shell would tell of its end.
    disown
}

# lives NAME: whether that daemon runs, and not somebody else under its old pid.
lives() {
    local pid namespace
    namespace=$(stat -Lc %i "/run/netns/$netns" 2>/dev/null) || return 1
    pid=$(cat "$work/pids/$1" 2>/dev/null) && [ "$(stat -Lc %i "/proc/$pid/ns/net" 2>/dev/null)" = "$namespace" ]
}

start_api_server() {
    local pki="$work/pki" etcd=http://127.0.0.1:2379
    mkdir -m 700 "$work/etcd"
    daemon etcd "$tools/kube/bin/etcd" --data-dir "$work/etcd" --unsafe-no-fsync --listen-client-urls "$etcd" \
        --advertise-client-urls "$etcd" --listen-peer-urls http://127.0.0.1:2380
    daemon apiserver "$tools/kube/bin/kube-apiserver" --etcd-servers "$etcd" --cert-dir "$work/certs" \
        --advertise-address "$gateway" --secure-port 6443 --service-cluster-ip-range 10.96.0.0/16 \
        --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/accounts.key" \
        --service-account-signing-key-file "$pki/accounts.key" --kubelet-certificate-authority "$pki/ca.crt" \
        --kubelet-client-certificate "$pki/apiserver-kubelet.crt" --kubelet-client-key "$pki/apiserver-kubelet.key" \
        --kubelet-preferred-address-types InternalIP --authorization-mode Node,RBAC \
        --enable-admission-plugins NodeRestriction --allow-privileged=true
    within 60 kubectl get --raw /readyz
}

start_controllers() {
    local pki="$work/pki"
    daemon controller-manager "$tools/kube/bin/kube-controller-manager" --kubeconfig "$pki/controller-manager.kubeconfig" \
        --service-account-private-key-file "$pki/accounts.key" --root-ca-file "$pki/ca.crt" --leader-elect=false \
        --use-service-account-credentials --allocate-node-cidrs --cluster-cidr 10.244.0.0/16 --bind-address 127.0.0.1 \
        --cert-dir "$work/certs-controller-manager"
    daemon scheduler "$tools/kube/bin/kube-scheduler" --kubeconfig "$pki/scheduler.kubeconfig" --leader-elect=false \
        --bind-address 127.0.0.1 --cert-dir "$work/certs-scheduler"
}

# Node objects, made before the kubelets, so that node N has the pod network N.
declare_node() {
    kubectl apply -f - <<N >/dev/null
apiVersion: v1
kind: Node
metadata: {name: node$1, labels: {kubernetes.io/hostname: node$1, kubernetes.io/os: linux}}
spec: {podCIDR: 10.244.$1.0/24, podCIDRs: [10.244.$1.0/24]}
N
}

start_control_plane() {
    start_api_server
    start_controllers
    for number in $(seq "$1"); do
        within 30 declare_node "$number"
    done
    [ "$cni" != flannel ] || kubectl apply -f "$here/manifests/flannel.yaml" >/dev/null
    within 60 kubectl get serviceaccount default
}
