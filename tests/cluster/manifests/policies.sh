# Policies of the cases. Sourced.
# shellcheck shell=bash disable=SC2154

# The example's policy, before servers of the test instead of the example's proxies.
policies() {
    # The last document of the file.
    awk '/^---$/ { document = ""; next } { document = document $0 "\n" } END { printf "%s", document }' "$repository/install/examples/metadata-proxy.yaml" |
        sed 's/namespace: kube-system/namespace: default/'
    echo ---
    cat <<P
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata: {name: pods}
spec:
  frontend: {addressMatcher: {ip: 10.99.0.1, toPorts: [{port: "80", protocol: TCP}]}}
  backend:
    serviceEndpoint:
      endpointSelector: {matchLabels: {app: web}}
      toPorts: [{port: "8080", protocol: TCP}]
---
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata: {name: host-ports}
spec:
  frontend: {addressMatcher: {ip: 10.99.0.2, toPorts: [{port: "80", protocol: TCP}]}}
  backend:
    serviceEndpoint:
      endpointSelector: {matchLabels: {app: web}}
      redirectMode: hostPort
      toPorts: [{port: "18080", protocol: TCP}]
---
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata: {name: addresses}
spec:
  frontend: {addressMatcher: {ip: 10.99.0.3, toPorts: [{port: "80", protocol: TCP}]}}
  backend:
    addressEndpoint:
      addresses: [{ip: $gateway}]
      toPorts: [{port: "9000", protocol: TCP}]
P
}

# apply_policies: until they are in force on every node.
apply_policies() {
    local number
    policies | kubectl apply -f - >/dev/null
    kubectl wait --for=condition=Programmed lr/metadata-proxy bl/pods bl/host-ports bl/addresses --timeout=60s >/dev/null
    for number in $(seq "$nodes"); do within 30 has_policies "$number"; done
}

# The condition speaks of the cluster.
has_policies() { balancingctl "$1" frontends -o json | jq -e 'map(.address) | contains(["169.254.169.254", "10.99.0.1", "10.99.0.2", "10.99.0.3"])' >/dev/null; }

delete_policies() { policies | kubectl delete -f - >/dev/null; }
