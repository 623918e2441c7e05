# Pods of the cases, printed for node N by `pods N`. Sourced.
# shellcheck shell=bash disable=SC2154
#
# On each node: clients with musl (mN) and glibc (gN), a server with a hostPort (wN), a metadata proxy (dN). Their
# classes of quality of service differ, so their cgroups lie in different places.

# pod NAME NODE LABEL IMAGE COMMAND [MORE-OF-THE-CONTAINER] [MORE-OF-THE-POD]
pod() {
    cat <<P
---
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: $3}}
spec:
  nodeSelector: {kubernetes.io/hostname: node$2}
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  ${7:-}
  containers: [{name: c, image: "$registry/$4:1", imagePullPolicy: Never, command: $5${6:+, $6}}]
P
}

pods() {
    local sleep='[/bin/busybox, sleep, "1000000"]'
    pod "m$1" "$1" client probe-musl "$sleep"
    pod "g$1" "$1" client probe-glibc "$sleep" 'resources: {requests: {cpu: 10m, memory: 8Mi}}'
    pod "w$1" "$1" web probe-musl "[cluster-probe, serve, \"8080\", web-on-$1]" \
        'ports: [{containerPort: 8080, hostPort: 18080}], resources: {limits: {cpu: "1", memory: 32Mi}, requests: {cpu: "1", memory: 32Mi}}'
    pod "d$1" "$1" metadata-proxy probe-musl "[cluster-probe, serve, \"8080\", metadata-on-$1]"
}
