#!/usr/bin/env bash
# The chart renders with what operators set and refuses what does not exist; rights, rules, CRDs and platforms in it are
# those of install/ and of the code; install/balancing.yaml is up to date; what alerts and dashboard ask for exists.
set -euo pipefail
cd "$(dirname "$0")/../.."

helm=tests/tools/helm/bin/helm
chart=install/chart
[ -x "$helm" ] || { echo "no $helm: run tests/setup.sh helm" >&2 && exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HELM_CACHE_HOME=$work HELM_CONFIG_HOME=$work HELM_DATA_HOME=$work

status=0
fail() {
    echo "$*" >&2
    status=1
}

# render NAME ARGUMENTS...: into $work/NAME.yaml.
render() {
    "$helm" template balancing "$chart" --namespace balancing-system "${@:2}" >"$work/$1.yaml" 2>"$work/errors" ||
        fail "the chart does not render with ${*:2}: $(cat "$work/errors")"
}
# has NAME TEXT: what was rendered has a line with this text.
has() { grep -qF -- "$2" "$work/$1.yaml" || fail "rendered as '$1', the chart lacks: $2"; }
lacks() { ! grep -qF -- "$2" "$work/$1.yaml" || fail "rendered as '$1', the chart has: $2"; }
# refuses TEXT ARGUMENTS...: rendering fails with these words.
refuses() {
    if "$helm" template balancing "$chart" --namespace balancing-system "${@:2}" >/dev/null 2>"$work/errors"; then
        fail "the chart takes ${*:2}"
    elif ! grep -qF -- "$1" "$work/errors"; then
        fail "the chart refuses ${*:2} without the words '$1': $(cat "$work/errors")"
    fi
}

"$helm" lint --strict --namespace balancing-system "$chart" >"$work/lint" 2>&1 || fail "helm lint: $(cat "$work/lint")"

# As it comes.
render default
for text in 'privileged: true' '- SYS_ADMIN' hostPID '- ALL' LocalRedirectPolicy monitoring.coreos.com /host/ ResourceQuota; do
    lacks default "$text"
done
[ "$(grep -c 'drop: \[ALL\]' "$work/default.yaml")" = 3 ] || fail "a container of the chart keeps capabilities of its runtime"

# What operators set.
render image --set image.repository=registry.test/balancing,image.digest=sha256:"$(printf '%064d' 0)"
has image '"registry.test/balancing@sha256:0'
render settings --set feature.redirectQosLimit=3000000000,feature.apiServerHost=192.0.2.1,feature.apiServerPort=6443 \
    --set balancingAgent.tables.connections=1048576,balancingAgent.tables.qosPolicies=9 --set 'balancingAgent.excludeNamespaces={a,b}'
for text in 'value: "3000000000"' 'name: KUBERNETES_SERVICE_HOST' 'value: 192.0.2.1' 'value: "6443"' \
    --max-connections=1048576 --max-qos-policies=9 --exclude-namespaces=a,b; do
    has settings "$text"
done
[ "$(grep -c 'value: 192.0.2.1' "$work/settings.yaml")" = 2 ] || fail "agent and controller do not reach the API server at the same host"
render servers --set feature.apiServerHost=127.0.0.1,feature.apiServerPort=6443,balancingController.apiServerHost=192.0.2.1,balancingController.apiServerPort=443 \
    --set 'balancingController.extraEnv[0].name=POD_NAME,balancingController.extraEnv[0].value=mine'
for text in 'value: 127.0.0.1' 'value: "6443"' 'value: 192.0.2.1' 'value: "443"' 'value: mine'; do has servers "$text"; done
[ "$(grep -c 'name: POD_NAME' "$work/servers.yaml")" = 1 ] || fail "a name of extraEnv that is also ours is there twice"
render users --set balancingController.runAsUser=-1,nodeLocalDNS.enabled=true,nodeLocalDNS.runAsUser=-1
lacks users 65532
render cni --set balancingAgent.cni.install=true,balancingAgent.cni.preset=k3s,balancingAgent.cni.criSocket=/run/k3s/containerd/containerd.sock
for text in --install-cni --cni-bin-dir=/host/var/lib/rancher/k3s/data/cni '--cri-socket=/host/run/k3s/containerd/containerd.sock' \
    '{path: /run/k3s/containerd, type: Directory}'; do
    has cni "$text"
done
render remove --set balancingAgent.remove=true
"$helm" template balancing "$chart" --namespace default --set balancingAgent.remove=true >/dev/null 2>&1 || fail "a release in a system namespace cannot be removed"
for text in 'name: cni-uninstall' 'args: [cleanup]' 'name: removed'; do has remove "$text"; done
render socket --set balancingAgent.remove=true,balancingAgent.cni.criSocket=/run/containerd/containerd.sock
has socket '{path: /run/containerd, type: DirectoryOrCreate}'
lacks remove 'name: agent'
render uninstall --set balancingAgent.cni.uninstall=true
for text in 'name: cni-uninstall' 'name: agent'; do has uninstall "$text"; done
for text in 'args: [cleanup]' --install-cni; do lacks uninstall "$text"; done
render gke --set balancingAgent.cni.preset=gke
has gke 'kind: ResourceQuota'
render quota --set resourceQuota.enabled=true
has quota 'kind: ResourceQuota'
render dns --set nodeLocalDNS.enabled=true,nodeLocalDNS.lameduckSeconds=20,nodeLocalDNS.qosLimit=0
for text in 'kind: LocalRedirectPolicy' 'lameduck 20s' 'terminationGracePeriodSeconds: 30' 'qosLimit: 0' 'forward . /etc/resolv.conf'; do
    has dns "$text"
done
render numbers --set nodeLocalDNS.enabled=true,nodeLocalDNS.cacheSeconds=86400
for text in 'cache 86400' 'lameduck 30s' 'terminationGracePeriodSeconds: 40'; do has numbers "$text"; done
render address --set balancingController.apiServerHost=2001:db8::1,balancingController.apiServerPort=6443
has address 'value: 2001:db8::1'
render nohost --set feature.apiServerHost=null,feature.apiServerPort=null
render env --set 'feature.apiServerHost=127.0.0.1,balancingController.extraEnv[0].name=KUBERNETES_SERVICE_HOST,balancingController.extraEnv[0].value=192.0.2.1' \
    --set 'balancingController.extraEnv[1].name=KUBERNETES_SERVICE_PORT' --set-string 'balancingController.extraEnv[1].value=443'
render envhost --set "feature.apiServerHost=127.0.0.1,balancingController.extraEnv[0].name=KUBERNETES_SERVICE_HOST,balancingController.extraEnv[0].value=192.0.2.1"
render unfit --set balancingAgent.remove=true,balancingAgent.tables.connections=70000,feature.apiServerPort=6443
render upstreams --set 'nodeLocalDNS.enabled=true,nodeLocalDNS.upstreams={192.0.2.1,192.0.2.1:5353,2001:db8::1,[2001:db8::1]:53,fe80::1%eth0,[fe80::1%eth0]:53,tls://192.0.2.2}'
has upstreams 'forward . 192.0.2.1 192.0.2.1:5353 2001:db8::1 [2001:db8::1]:53 fe80::1%eth0 [fe80::1%eth0]:53 tls://192.0.2.2'
lacks remove balancing-doctor
render monitoring --set serviceMonitor.enabled=true,prometheusRule.enabled=true,grafanaDashboard.enabled=true
for text in 'kind: ServiceMonitor' 'kind: PrometheusRule' 'alert: BalancingAgentAway' grafana_dashboard; do has monitoring "$text"; done
render external --set externalHosts.enabled=true
render elsewhere --namespace other --set externalHosts.enabled=true,nodeLocalDNS.enabled=true
lacks elsewhere balancing-system
mkdir "$work/values"
echo 'nodeLocalDNS: {enabled: true}' >"$work/values/mine.yaml"
manifests=$PWD/install/manifests.sh
(cd "$work/values" && "$manifests" --namespace other -f mine.yaml) >"$work/plain.yaml" || fail "install/manifests.sh takes no file of the caller's directory"
has plain 'name: node-local-dns'
lacks plain balancing-system

# What it does not know.
refuses 'is not a power of two; use 131072' --set balancingAgent.tables.connections=70000
for host in https://192.0.2.1:6443 192.0.2.1:6443 'a b'; do
    refuses "at '/feature/apiServerHost'" --set "feature.apiServerHost=$host"
done
refuses "at '/balancingAgent/tables/connections'" --set balancingAgent.tables.connections=134217728
refuses "additional properties 'nodeEntryInterface' not allowed" --set balancingAgent.nodeEntryInterface=eth0
refuses "additional properties 'nodeLocalDns' not allowed" --set nodeLocalDns.enabled=true
refuses "at '/feature/enableIPv6': value must be true" --set feature.enableIPv6=false
refuses "at '/balancingAgent/cni/preset': value must be one of" --set balancingAgent.cni.preset=openshift
refuses "at '/balancingAgent/extraCapabilities/0'" --set 'balancingAgent.extraCapabilities={SYS_ADMIN}'
refuses "a drop-in is always last" --set balancingAgent.cni.mode=drop-in,balancingAgent.cni.place=before:portmap
refuses "healthPort and metricsPort must differ" --set balancingAgent.metricsPort=5810
for namespace in default kube-node-lease kube-public kube-system; do
    refuses "use a namespace of its own" --namespace "$namespace"
done
refuses "install and uninstall exclude each other" --set balancingAgent.cni.install=true,balancingAgent.cni.uninstall=true
refuses "is the port at feature.apiServerHost; set that, too" --set feature.apiServerPort=6443
refuses "is the port at balancingController.apiServerHost" --set balancingController.apiServerPort=6443
for host in 127.0.0.1 localhost ::1; do
    refuses "set balancingController.apiServerHost" --set "feature.apiServerHost=$host"
done
own=balancingController.extraEnv
refuses "name KUBERNETES_SERVICE_PORT, too" --set "feature.apiServerHost=192.0.2.1,feature.apiServerPort=6443,$own[0].name=KUBERNETES_SERVICE_HOST,$own[0].value=api.example"
refuses "check-values.yaml" --set balancingAgent.metricsPort=10250
refuses "10250 is the kubelet's" --set balancingAgent.healthPort=10250
for upstream in dns.example.com tls://192.0.2.2%dns.example.com 'tls://2001:db8::1%dns.example.com' '[2001:db8::1%eth0]:53'; do
    refuses "at '/nodeLocalDNS/upstreams/0'" --set "nodeLocalDNS.upstreams={$upstream}"
done
refuses "got 0, want 1" --set nodeLocalDNS.runAsUser=0
refuses "set tag or digest" --set nodeLocalDNS.enabled=true,nodeLocalDNS.image.tag=
refuses "at '/feature/apiServerPort'" --set-string feature.apiServerPort=99999
refuses "at '/balancingAgent/cni/netDir'" --set balancingAgent.cni.netDir=/
refuses "at '/balancingAgent/cni/binDir'" --set 'balancingAgent.cni.binDir=/opt/cni/bin #'
refuses "at '/balancingAgent/cni/criSocket'" --set balancingAgent.cni.criSocket=/run/../etc/x
refuses "at '/balancingAgent/cni/place'" --set 'balancingAgent.cni.place=before: x'
refuses "at '/nodeLocalDNS/upstreams/0'" --set 'nodeLocalDNS.upstreams={1.2.3.4\}}'
refuses "at '/nodeLocalDNS/cacheSeconds'" --set nodeLocalDNS.cacheSeconds=100000
refuses "at '/balancingAgent/podLabels/app.kubernetes.io~1name'" --set 'balancingAgent.podLabels.app\.kubernetes\.io/name=other'
refuses "at '/nodeLocalDNS/podAnnotations/balancing.elf.io~1redirect'" --set 'nodeLocalDNS.podAnnotations.balancing\.elf\.io/redirect=enabled'
for section in image feature balancingAgent balancingAgent.cni balancingAgent.tables balancingController nodeLocalDNS.image; do
    refuses "missing propert" --set "$section=null"
done
render null --set balancingAgent.seLinuxOptions=null,balancingController.affinity=null,balancingAgent.tolerations=null,serviceMonitor.interval=1m30s
lacks null spc_t
lacks null podAntiAffinity

# One truth. Each document of install/rbac is in what is rendered, and each CRD is the one of install/crds.
documents() { # FILE...: without comments, one a line
    awk 'FNR == 1 || /^---/ { printf "\n" } !/^ *#/ && !/^---/ && NF { printf "%s\\n", $0 }' "$@" | grep 'kind:' | sort
}
documents install/rbac/*.yaml | grep -v '^apiVersion: v1\\nkind: Namespace' >"$work/wanted"
[ "$(wc -l <"$work/wanted")" -gt 20 ] || fail "install/rbac could not be read"
missing=$(comm -23 "$work/wanted" <(documents "$work/external.yaml"))
[ -z "$missing" ] || fail "the chart lacks these of install/rbac: $missing"
"$helm" show crds "$chart" 2>/dev/null >"$work/crds"
cmp -s <(documents install/crds/*.yaml) <(documents "$work/crds") || fail "the CRDs of the chart are not those of install/crds"
diff -u install/balancing.yaml <(install/manifests.sh) >"$work/difference" ||
    fail "install/balancing.yaml is not what the chart renders: run make manifests: $(head -n 20 "$work/difference")"

# Versions, and the directories of platforms.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
for key in version appVersion; do
    grep -qx "$key: $version" "$chart/Chart.yaml" || fail "$chart/Chart.yaml: $key is not that of Cargo.toml, $version"
done
tr -d '\n' <cni/install/src/preset.rs | sed 's/, *K3S/, ""/g' |
    grep -oE 'Preset \{ *name: "[^"]*", *marker: "[^"]*", *net_dir: "[^"]*", *bin_dir: "[^"]*"' |
    sed -E 's/.*name: "([^"]*)".*net_dir: "([^"]*)", *bin_dir: "([^"]*)"/\1: {netDir: \2, binDir: \3}/' | sort >"$work/presets"
[ -s "$work/presets" ] || fail "the presets of cni/install/src/preset.rs could not be read"
diff "$work/presets" <(grep -v '^#' "$chart/files/cni-presets.yaml" | sort) >"$work/difference" ||
    fail "$chart/files/cni-presets.yaml is not as cni/install/src/preset.rs: $(cat "$work/difference")"

# Metrics that alerts and dashboard ask for.
jq empty install/monitoring/dashboard.json || fail "install/monitoring/dashboard.json is no JSON"
while read -r metric; do
    grep -qE "^\| \`${metric%_bucket}\`" docs/metrics.md || fail "install/monitoring asks for $metric, which docs/metrics.md does not know"
done < <(grep -ohE 'balancing_[a-z_]+' install/monitoring/alerts.yaml install/monitoring/dashboard.json | sort -u)
exit $status
