#!/usr/bin/env bash
# Writes a kubeconfig for the agent of a host outside the cluster, with a token that ends.
#
#   install/external-host-kubeconfig.sh NAME [FILE]
#
# NAME is an ExternalHost with spec.serviceAccountName; FILE is NAME.kubeconfig unless it is given. The ServiceAccount and its three
# bindings are made where they are missing. It works with kubectl's current context and needs the rights to make these, to read
# ExternalHosts and the three roles, and to make a token for the ServiceAccount. Run it again to renew: the agent reads a replaced
# file anew. Server, CA and tls-server-name are those of the context; a proxy-url is not taken
# over.
#
# API_SERVER (https://...) names it where the host reaches it at another address than the context says; TLS_SERVER_NAME is a name that
# its certificate has, where it does not have that address.
# DURATION (720h) is how long the token shall be valid; the API server may allow less. NAMESPACE is the agents', balancing-system.
set -euo pipefail
umask 077

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 NAME [FILE]" >&2
    exit 64
fi
name=$1 file=${2:-$1.kubeconfig}
namespace=${NAMESPACE:-balancing-system} duration=${DURATION:-720h}

account=$(kubectl get externalhost "$name" -o 'jsonpath={.spec.serviceAccountName}')
if [ -z "$account" ]; then
    echo "ExternalHost $name has no spec.serviceAccountName; set it to the name of a ServiceAccount of its own, such as host-$name" >&2
    exit 1
fi
case $account in default | balancing-agent | balancing-controller | balancing-external)
    echo "ServiceAccount $account is not that of one host; give ExternalHost $name one of its own, such as host-$name" >&2
    exit 1
    ;;
esac

others=$(kubectl get externalhosts -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.serviceAccountName}{"\n"}{end}' |
    awk -v name="$name" -v account="$account" '$2 "" == account "" && $1 "" != name "" { print $1 }')
if [ -n "$others" ]; then
    echo "ServiceAccount $account is also that of ExternalHost ${others//$'\n'/, }; each could write for the other: give $name one of its own" >&2
    exit 1
fi

# exists NAME ARGUMENTS...: fails where kubectl cannot tell.
exists() {
    local found
    found=$(kubectl get "${@:2}" "$1" --ignore-not-found -o name) || exit
    [ -n "$found" ]
}
if ! exists balancing-external-host clusterrole || ! exists balancing-external-events role --namespace default; then
    echo "the roles of hosts outside do not exist: install the chart with externalHosts.enabled=true, or apply" \
        "install/rbac/external.yaml and install/rbac/external-host.yaml" >&2
    exit 1
fi
if ! exists balancing-external-host role --namespace "$namespace"; then
    echo "namespace $namespace has no Role balancing-external-host: set NAMESPACE to the one that Balancing is in" >&2
    exit 1
fi

# of_cluster FIELD: of the cluster that the context names.
of_cluster() { kubectl config view --raw --minify --flatten -o "jsonpath={.clusters[0].cluster.$1}"; }
server=${API_SERVER:-$(of_cluster server)}
authority=$(of_cluster certificate-authority-data)
tls_name=${TLS_SERVER_NAME:-$(of_cluster tls-server-name)}
proxy=$(of_cluster proxy-url)
if [ "$(of_cluster insecure-skip-tls-verify)" = true ]; then
    echo "the context does not verify its server (insecure-skip-tls-verify); a host gets no such kubeconfig: use one with the CA" >&2
    exit 1
fi
if [[ $server != https://* ]]; then
    echo "the server is $server: an agent's token goes over https:// only; use another context, or API_SERVER=https://..." >&2
    exit 1
fi
if [[ $server =~ ^https://(localhost|0\.0\.0\.0|127(\.[0-9]+){3}|\[::1?\])([:/]|$) ]]; then
    echo "the server is $server: the host will look for it on itself; API_SERVER=https://... names another address" >&2
fi
[ -z "$proxy" ] || echo "the context's proxy-url is not taken over: the host reaches $server itself, or has HTTPS_PROXY" >&2

if [ -d "$file" ]; then
    echo "$file is a directory; name a file" >&2
    exit 1
fi
# Before anything is made in the cluster. Not through the command line, which every process may read.
next=$(mktemp "$file.XXXXXX")
trap 'rm -f "$next"' EXIT

# binding KIND NAMESPACE NAME ROLE-KIND ROLE
binding() {
    cat <<YAML
---
apiVersion: rbac.authorization.k8s.io/v1
kind: $1
metadata:
  name: "$3"
  namespace: "$2"
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: $4, name: $5}
subjects:
  - {kind: ServiceAccount, name: "$account", namespace: "$namespace"}
YAML
}
{
    cat <<YAML
apiVersion: v1
kind: ServiceAccount
metadata:
  name: "$account"
  namespace: "$namespace"
automountServiceAccountToken: false
YAML
    binding ClusterRoleBinding "" "balancing-external-host-$account" ClusterRole balancing-external-host
    binding RoleBinding "$namespace" "balancing-external-host-$account" Role balancing-external-host
    binding RoleBinding default "balancing-external-host-$account" Role balancing-external-events
} | kubectl apply --server-side --field-manager external-host-kubeconfig -f - >&2

answer=$(kubectl create token "$account" --namespace "$namespace" --duration "$duration" -o 'jsonpath={.status.token} {.status.expirationTimestamp}')
read -r token expires <<<"$answer"
# A here-document takes the quotes out of ${name:+"text"}.
verify=${authority:+", certificate-authority-data: $authority"}${tls_name:+", tls-server-name: \"$tls_name\""}
cat >"$next" <<YAML
apiVersion: v1
kind: Config
current-context: balancing
contexts:
  - name: balancing
    context: {cluster: balancing, user: "$account", namespace: "$namespace"}
clusters:
  - name: balancing
    cluster: {server: "$server"$verify}
users:
  - name: "$account"
    user: {token: "$token"}
YAML
mv "$next" "$file"
echo "$file: ServiceAccount $namespace/$account at $server, valid until $expires"
