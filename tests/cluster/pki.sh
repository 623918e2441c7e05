# Keys and certificates of a run: one authority; the names in the certificates are what RBAC knows. Sourced.
# shellcheck shell=bash disable=SC2154

# certificate NAME SUBJECT USAGE [NAMES]
certificate() {
    local name=$1 subject=$2 usage=$3 names=${4:-}
    openssl ecparam -name prime256v1 -genkey -noout -out "$name.key"
    openssl req -new -key "$name.key" -subj "$subject" -out "$name.csr" 2>/dev/null
    openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$name.crt" 2>/dev/null \
        -extfile <(printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n%s\n' "$usage" "${names:+subjectAltName=$names}")
    rm "$name.csr"
    cat >"$name.kubeconfig" <<K
apiVersion: v1
kind: Config
current-context: e2e
clusters: [{name: e2e, cluster: {server: "https://$gateway:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
contexts: [{name: e2e, context: {cluster: e2e, user: e2e}}]
users: [{name: e2e, user: {client-certificate-data: $(base64 -w0 "$name.crt"), client-key-data: $(base64 -w0 "$name.key")}}]
K
}

# make_keys NODES
make_keys() (
    mkdir -p "$work/pki" && cd "$work/pki" || exit
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
    openssl req -x509 -new -key ca.key -subj /CN=e2e -days 30 -out ca.crt -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
    certificate apiserver /CN=kube-apiserver serverAuth "IP:$gateway,IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes.default.svc"
    certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet clientAuth
    certificate admin /O=system:masters/CN=admin clientAuth
    certificate controller-manager /CN=system:kube-controller-manager clientAuth
    certificate scheduler /CN=system:kube-scheduler clientAuth
    certificate kube-proxy /CN=system:kube-proxy clientAuth
    certificate flannel /CN=flannel clientAuth
    for number in $(seq "$1"); do
        certificate "node$number" "/O=system:nodes/CN=system:node:node$number" clientAuth,serverAuth \
            "DNS:node$number,IP:$(address_of "$number")"
    done
    ssh-keygen -q -t ed25519 -N '' -f ssh
)
