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

{{- /* Where the API server is, for the client that reads the ServiceAccount. */ -}}
{{- define "balancing.apiServer" -}}
{{- with .Values.feature.apiServerHost }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ . | quote }}}
{{- end }}
{{- with .Values.feature.apiServerPort }}
- {name: KUBERNETES_SERVICE_PORT, value: {{ . | toString | quote }}}
{{- end }}
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
netDir: {{ $cni.netDir | default $preset.netDir }}
binDir: {{ $cni.binDir | default $preset.binDir }}
{{- end }}

{{- /* Whether the places of the CNI plugin are needed. */ -}}
{{- define "balancing.cniMounted" -}}
{{- if or .Values.balancingAgent.cni.install .Values.balancingAgent.remove }}true{{ end }}
{{- end }}

{{- /* Settings of the installer, below /host so that a directory such as /bin hides none of ours. */ -}}
{{- define "balancing.cniArgs" -}}
{{- $cni := .Values.balancingAgent.cni }}
{{- $places := include "balancing.cniPlaces" . | fromYaml }}
- --host-root=/host
- --cni-net-dir=/host{{ $places.netDir }}
- --cni-bin-dir=/host{{ $places.binDir }}
- --cni-mode={{ $cni.mode }}
- --cni-place={{ $cni.place }}
- --cni-failure-policy={{ $cni.failurePolicy }}
- --cni-runtime={{ $cni.runtime }}
{{- with $cni.network }}
- --cni-network={{ . }}
{{- end }}
- --cri-socket={{ if $cni.criSocket }}/host{{ $cni.criSocket }}{{ else }}off{{ end }}
{{- end }}

{{- /* What agent, doctor and removal may do. Not privileged, and no way to more. */ -}}
{{- define "balancing.hostSecurity" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add:
    # Programs and tables.
    - BPF
    # The programs' pointer arithmetic, which the kernel refuses without it.
    - PERFMON
    # Attaching programs to cgroups; tunnel device, routes and filter of the fabric; the mark on the agent's own connections.
    - NET_ADMIN
    # The echoes that prove a tunnel before others are sent through it.
    - NET_RAW
    # Finding a cgroup by its id, so that links of pods that ended are swept.
    - DAC_READ_SEARCH
    {{- range .Values.balancingAgent.extraCapabilities }}
    - {{ . }}
    {{- end }}
    # Not SYS_ADMIN: it would mount bpffs, but in the container, where it ends with it. The host has to mount it.
{{- with .Values.balancingAgent.seccompProfile }}
seccompProfile: {{ toJson . }}
{{- end }}
# The runtime's profile forbids writing below /sys, where bpffs is.
appArmorProfile: {type: Unconfined}
{{- with .Values.balancingAgent.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "balancing.hostMounts" -}}
- {name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}
- {name: cgroup, mountPath: /sys/fs/cgroup, readOnly: true, mountPropagation: HostToContainer}
- {name: run, mountPath: /run/balancing}
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
# The runtime's socket; its directory, because a runtime that is started again makes a new one.
- {name: cri, hostPath: {path: {{ dir . }}, type: Directory}}
{{- end }}
{{- end }}

{{- /* What a schema cannot say. */ -}}
{{- define "balancing.validate" -}}
{{- $cni := .Values.balancingAgent.cni }}
{{- if and (eq $cni.mode "drop-in") (ne $cni.place "last") }}
{{- fail "balancingAgent.cni.place: a drop-in is always last; use mode inline or copy" }}
{{- end }}
{{- if eq (int .Values.balancingAgent.healthPort) (int .Values.balancingAgent.metricsPort) }}
{{- fail "balancingAgent.healthPort and metricsPort must differ" }}
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
        lameduck {{ $dns.lameduckSeconds }}s
    }
    ready :8181
    prometheus :9153
    cache {{ $dns.cacheSeconds }}
    loop
    forward . {{ join " " ($dns.upstreams | default (list "/etc/resolv.conf")) }}
}
{{- end }}
