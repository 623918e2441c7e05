{{- /* Names are fixed: the rules of admission know the accounts by name, and one cluster has one Balancing. */ -}}

{{- define "balancing.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: balancing
{{- end }}

{{- define "balancing.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- /* The image of agent and controller. */ -}}
{{- define "balancing.ownImage" -}}
{{- include "balancing.image" (dict "repository" .Values.image.repository "digest" .Values.image.digest "tag" (.Values.image.tag | default .Chart.AppVersion)) }}
{{- end }}

{{- /* Where the API server is, for the client that reads the ServiceAccount: host and port. */ -}}
{{- define "balancing.apiServer" -}}
{{- with .host }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ . | quote }}}
{{- end }}
{{- with .port }}
- {name: KUBERNETES_SERVICE_PORT, value: {{ . | toString | quote }}}
{{- end }}
{{- end }}

{{- define "balancing.agentEnv" -}}
- {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: REDIRECT_QOS_LIMIT, value: {{ .Values.feature.redirectQosLimit | int64 | toString | quote }}}
{{- include "balancing.apiServer" (dict "host" .Values.feature.apiServerHost "port" .Values.feature.apiServerPort) }}
{{- end }}

{{- define "balancing.controllerEnv" -}}
{{- $controller := .Values.balancingController -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
{{- include "balancing.apiServer" (dict "host" ($controller.apiServerHost | default .Values.feature.apiServerHost) "port" ($controller.apiServerPort | default .Values.feature.apiServerPort)) }}
{{- end }}

{{- /* Environment: ours, but for the names that extraEnv has, and then extraEnv. No name may be there twice. */ -}}
{{- define "balancing.env" -}}
{{- $names := list }}
{{- range .extra }}{{ $names = append $names .name }}{{ end }}
{{- $all := list }}
{{- range .ours | fromYamlArray }}{{ if not (has .name $names) }}{{ $all = append $all . }}{{ end }}{{ end }}
{{- concat $all (.extra | default list) | toYaml }}
{{- end }}

{{- /* A user that is not root, of a container that needs none in particular. With -1 the platform has to give one. */ -}}
{{- define "balancing.nonRoot" -}}
runAsNonRoot: true
{{- $user := int64 (.runAsUser | default 65532) }}
{{- if ge $user 0 }}
runAsUser: {{ $user }}
runAsGroup: {{ $user }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* A file of install/rbac in the namespace of the release, which Helm makes itself. */ -}}
{{- define "balancing.rbac" -}}
{{- $text := .Files.Get (printf "files/rbac/%s.yaml" .file) | required (printf "files/rbac/%s.yaml is missing" .file) }}
{{- range splitList "\n---\n" $text }}
{{- if and (regexMatch "(?m)^kind: " .) (not (regexMatch "(?m)^kind: Namespace$" .)) }}
---
{{ . | replace "balancing-system" $.Release.Namespace | trim }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Directories of the network configuration and of plugins on the node, as YAML. */ -}}
{{- define "balancing.cniPlaces" -}}
{{- $cni := .Values.balancingAgent.cni }}
{{- $preset := index (.Files.Get "files/cni-presets.yaml" | fromYaml) $cni.preset }}
netDir: {{ $cni.netDir | default $preset.netDir | trimSuffix "/" }}
binDir: {{ $cni.binDir | default $preset.binDir | trimSuffix "/" }}
{{- end }}

{{- /* Whether the agent's pods take the plugin out first. */ -}}
{{- define "balancing.cniUninstalls" -}}
{{- if or .Values.balancingAgent.cni.uninstall .Values.balancingAgent.remove }}true{{ end }}
{{- end }}

{{- /* Takes the plugin out of the network configuration: files and the runtime's socket, nothing else. */ -}}
{{- define "balancing.cniUninstall" -}}
- name: cni-uninstall
  image: {{ include "balancing.ownImage" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - cni
    - uninstall
    {{- include "balancing.cniArgs" . | trim | nindent 4 }}
  securityContext: {{- include "balancing.hostSecurity" (dict "for" "plugin" "Values" .Values) | nindent 4 }}
  volumeMounts:
    - {name: run, mountPath: /run/balancing}
    {{- include "balancing.cniMounts" . | trim | nindent 4 }}
    - {name: cni-cache, mountPath: /host/var/lib/cni, readOnly: true}
{{- end }}

{{- /* Settings of the installer, below /host so that a directory such as /bin hides none of ours. */ -}}
{{- define "balancing.cniArgs" -}}
{{- $cni := .Values.balancingAgent.cni }}
{{- $places := include "balancing.cniPlaces" . | fromYaml }}
- --host-root=/host
- --cni-net-dir=/host{{ $places.netDir }}
- --cni-bin-dir=/host{{ $places.binDir }}
- --cni-mode={{ $cni.mode }}
- {{ printf "--cni-place=%s" $cni.place | quote }}
- --cni-failure-policy={{ $cni.failurePolicy }}
- --cni-runtime={{ $cni.runtime }}
{{- with $cni.network }}
- {{ printf "--cni-network=%s" . | quote }}
{{- end }}
- --cri-socket={{ if $cni.criSocket }}/host{{ $cni.criSocket }}{{ else }}off{{ end }}
{{- end }}

{{- /*
What agent, removal and doctor may do, by .for. None is privileged, but who takes over the agent has the node: it reads
every file of the host (DAC_READ_SEARCH) and the kernel's memory (PERFMON), and with cni.install it writes what the
runtime runs as root. So the others get only what they use.
*/ -}}
{{- define "balancing.hostSecurity" -}}
{{- $agent := .Values.balancingAgent -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- if ne .for "plugin" }}
  add:
    # Programs and tables.
    - BPF
    # Asking for programs of cgroups and attaching them; tunnel device, routes and filter of the fabric; the mark on the
    # agent's own connections.
    - NET_ADMIN
    {{- if eq .for "agent" }}
    # The programs' pointer arithmetic, which the kernel refuses without it.
    - PERFMON
    # The echoes that prove a tunnel before others are sent through it.
    - NET_RAW
    # Finding a cgroup by its id, so that links of pods that ended are swept.
    - DAC_READ_SEARCH
    {{- range $agent.extraCapabilities }}
    - {{ . }}
    {{- end }}
    # Not SYS_ADMIN: it would mount bpffs, but in the container, where it ends with it. The host has to mount it.
    {{- end }}
  {{- else if $agent.extraCapabilities }}
  add: {{ toJson $agent.extraCapabilities }}
  {{- end }}
{{- with $agent.seccompProfile }}
seccompProfile: {{ toJson . }}
{{- end }}
{{- if ne .for "plugin" }}
# The runtime's profile forbids writing below /sys, where bpffs is.
appArmorProfile: {type: Unconfined}
{{- end }}
{{- with $agent.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "balancing.hostMounts" -}}
{{- $reads := ternary ", readOnly: true" "" (eq .for "doctor") -}}
- {name: bpffs, mountPath: /sys/fs/bpf{{ $reads }}, mountPropagation: HostToContainer}
- {name: cgroup, mountPath: /sys/fs/cgroup, readOnly: true, mountPropagation: HostToContainer}
- {name: run, mountPath: /run/balancing{{ $reads }}}
{{- end }}

{{- define "balancing.hostVolumes" -}}
# Where programs, links and tables are pinned: they outlive the pod there.
- {name: bpffs, hostPath: {path: /sys/fs/bpf, type: Directory}}
# The host's hierarchy: in its own cgroup namespace a container sees its own cgroup only. Attaching needs no right to write.
- {name: cgroup, hostPath: {path: /sys/fs/cgroup, type: Directory}}
# The socket of balancingctl, locks, and what the CNI plugin and the agent tell each other.
- {name: run, hostPath: {path: /run/balancing, type: DirectoryOrCreate}}
{{- end }}

{{- define "balancing.cniMounts" -}}
{{- $cni := .Values.balancingAgent.cni }}
{{- $places := include "balancing.cniPlaces" . | fromYaml }}
- {name: cni-net, mountPath: /host{{ $places.netDir }}}
- {name: cni-bin, mountPath: /host{{ $places.binDir }}}
{{- with $cni.criSocket }}
- {name: cri, mountPath: /host{{ dir . }}}
{{- end }}
{{- end }}

{{- define "balancing.cniVolumes" -}}
{{- $cni := .Values.balancingAgent.cni }}
{{- $places := include "balancing.cniPlaces" . | fromYaml }}
# The runtime's network configuration, into which the plugin is put.
- {name: cni-net, hostPath: {path: {{ $places.netDir }}, type: DirectoryOrCreate}}
# Where the runtime looks for plugins.
- {name: cni-bin, hostPath: {path: {{ $places.binDir }}, type: DirectoryOrCreate}}
{{- with $cni.criSocket }}
# The runtime's socket; its directory, because a runtime that is started again makes a new one. At a removal a node without that
# runtime is cleaned up, too.
- {name: cri, hostPath: {path: {{ dir . }}, type: {{ if include "balancing.cniUninstalls" $ }}DirectoryOrCreate{{ else }}Directory{{ end }}}}
{{- end }}
{{- end }}

{{- /* What a schema cannot say. A release that is being removed was installed with what it has. */ -}}
{{- define "balancing.validate" -}}
{{- if not .Values.balancingAgent.remove }}
{{- include "balancing.refuse" . }}
{{- end }}
{{- end }}

{{- define "balancing.refuse" -}}
{{- $cni := .Values.balancingAgent.cni }}
{{- if has .Release.Namespace (list "default" "kube-node-lease" "kube-public" "kube-system") }}
{{- fail (printf "namespace %s: the rules of admission take every other ServiceAccount of the release's namespace for that of a host outside the cluster, and refuse its Leases and Events; use a namespace of its own, such as --namespace balancing-system --create-namespace" .Release.Namespace) }}
{{- end }}
{{- with .Values.balancingAgent.tables.connections }}
{{- $wanted := int64 . }}
{{- $power := int64 1 }}
{{- range until 31 }}{{ if lt $power $wanted }}{{ $power = mul $power 2 }}{{ end }}{{ end }}
{{- if ne $power $wanted }}
{{- fail (printf "balancingAgent.tables.connections: %d is not a power of two; use %d" $wanted $power) }}
{{- end }}
{{- end }}
{{- if and $cni.install $cni.uninstall }}
{{- fail "balancingAgent.cni.install and uninstall exclude each other" }}
{{- end }}
{{- if and .Values.nodeLocalDNS.enabled (not (or .Values.nodeLocalDNS.image.tag .Values.nodeLocalDNS.image.digest)) }}
{{- fail "nodeLocalDNS.image: set tag or digest" }}
{{- end }}
{{- if and (eq $cni.mode "drop-in") (ne $cni.place "last") }}
{{- fail "balancingAgent.cni.place: a drop-in is always last; use mode inline or copy" }}
{{- end }}
{{- if eq (int .Values.balancingAgent.healthPort) (int .Values.balancingAgent.metricsPort) }}
{{- fail "balancingAgent.healthPort and metricsPort must differ" }}
{{- end }}
{{- $feature := .Values.feature }}
{{- $controller := .Values.balancingController }}
{{- $own := list }}
{{- range $controller.extraEnv }}{{ $own = append $own .name }}{{ end }}
{{- if and $feature.apiServerPort (not $feature.apiServerHost) }}
{{- fail "feature.apiServerPort: it is the port at feature.apiServerHost; set that, too" }}
{{- end }}
{{- if and $controller.apiServerPort (not (or $controller.apiServerHost $feature.apiServerHost)) }}
{{- fail "balancingController.apiServerPort: it is the port at balancingController.apiServerHost; set that, too" }}
{{- end }}
{{- $host := $controller.apiServerHost | default $feature.apiServerHost | default "" }}
{{- $port := $controller.apiServerPort | default $feature.apiServerPort }}
{{- $hasHost := has "KUBERNETES_SERVICE_HOST" $own }}
{{- if and $hasHost $port (not (has "KUBERNETES_SERVICE_PORT" $own)) }}
{{- fail (printf "balancingController.extraEnv: it names KUBERNETES_SERVICE_HOST, and the port would be that of another host, %d; name KUBERNETES_SERVICE_PORT, too" (int $port)) }}
{{- end }}
{{- if and (not $hasHost) (regexMatch "^(127[.]|localhost$|\\[?::1\\]?$)" $host) }}
{{- fail "balancingController.apiServerHost, else feature.apiServerHost: an address of loopback is that of each node, and the controller runs in a network of its own; set balancingController.apiServerHost, such as kubernetes.default.svc with balancingController.apiServerPort=443" }}
{{- end }}
{{- range $name := list "healthPort" "metricsPort" }}
{{- if eq (int (index $.Values.balancingAgent $name)) 10250 }}
{{- fail (printf "balancingAgent.%s: 10250 is the kubelet's on every node" $name) }}
{{- end }}
{{- end }}
{{- if eq (int .Values.balancingController.healthPort) (int .Values.balancingController.metricsPort) }}
{{- fail "balancingController.healthPort and metricsPort must differ" }}
{{- end }}
{{- end }}

{{- define "balancing.corefile" -}}
{{- $dns := .Values.nodeLocalDNS -}}
.:1053 {
    errors
    health :8080 {
        lameduck {{ int64 $dns.lameduckSeconds }}s
    }
    ready :8181
    prometheus :9153
    cache {{ int64 $dns.cacheSeconds }}
    loop
    forward . {{ join " " ($dns.upstreams | default (list "/etc/resolv.conf")) }}
}
{{- end }}
