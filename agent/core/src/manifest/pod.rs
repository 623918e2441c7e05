//! Pods, reduced to what `resolve` needs.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    document::Document,
    namespace_or_default,
    notes::{IpEntry, Metadata, Notes},
};
use crate::objects::{ContainerPort, Pod};

#[derive(Deserialize)]
struct PodFields {
    metadata: Metadata<Annotations>,
    spec: Option<SpecFields>,
    status: Option<StatusFields>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "balancing.elf.io/redirect")]
    redirect: Option<Value>,
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<Value>,
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct SpecFields {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<ContainerFields>>,
    init_containers: Option<Vec<ContainerFields>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerFields {
    restart_policy: Option<String>,
    ports: Option<Vec<PortFields>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortFields {
    name: Option<String>,
    container_port: i64,
    host_port: Option<i64>,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
struct StatusFields {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<IpEntry>>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "hostIPs")]
    host_ips: Option<Vec<IpEntry>>,
    #[serde(rename = "containerStatuses")]
    container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(rename = "initContainerStatuses")]
    init_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    state: Option<ContainerState>,
}

#[derive(Deserialize)]
struct ContainerState {
    running: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: Option<String>,
    status: Option<String>,
}

/// Reads a pod.
///
/// # Errors
///
/// When a field has a type that no pod has; the message names it.
pub(super) fn read(document: &Document<'_>, notes: &mut Notes) -> Result<Pod, String> {
    let PodFields { metadata, spec, status } = document.decode()?;
    let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
    let static_uid = metadata.annotations.as_ref().and_then(static_uid);
    Ok(Pod {
        namespace: namespace_or_default(&metadata.namespace.unwrap_or_default()),
        name: metadata.name,
        uid: metadata.uid.unwrap_or_default(),
        static_uid,
        labels: metadata.labels.unwrap_or_default().into_iter().collect(),
        ports: ports(&spec, notes),
        node: spec.node_name.unwrap_or_default(),
        host_network: spec.host_network.unwrap_or_default(),
        ready: status.conditions.iter().flatten().any(Condition::is_ready),
        terminating: metadata.deletion_timestamp.is_some(),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ips: notes.ips("status.podIPs", status.pod_ips.as_deref(), "status.podIP", status.pod_ip.as_deref()),
        host_ips: notes.ips(
            "status.hostIPs",
            status.host_ips.as_deref(),
            "status.hostIP",
            status.host_ip.as_deref(),
        ),
        redirect_disabled: metadata.annotations.is_some_and(|a| redirect_disabled(a, notes)),
        containers: containers(&status),
        container_ended: false,
    })
}

/// Ids of what runs, sidecars among it: other init containers have ended when a pod is Ready.
fn containers(status: &StatusFields) -> Vec<Box<str>> {
    let statuses = [&status.container_statuses, &status.init_container_statuses];
    statuses.into_iter().flatten().flatten().filter_map(ContainerStatus::running).collect()
}

/// The UID of a static pod, from the annotations of its mirror. Of this form only: anybody who may make a pod can write them, and
/// no pod of the API server has such a UID (`pkg/kubelet/config/common.go`: an MD5 sum without dashes).
fn static_uid(annotations: &Annotations) -> Option<Box<str>> {
    let (Some(Value::String(hash)), Some(_)) = (&annotations.hash, &annotations.mirror) else { return None };
    let is_sum = hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_sum.then(|| hash.as_str().into())
}

fn redirect_disabled(annotations: Annotations, notes: &mut Notes) -> bool {
    match annotations.redirect {
        None => false,
        Some(Value::String(text)) if text == "disabled" => true,
        Some(Value::String(text)) if text == "enabled" || text.is_empty() => false,
        Some(other) => {
            let field = "metadata.annotations[\"balancing.elf.io/redirect\"]";
            notes.left_out(field, "must be \"disabled\" or \"enabled\"", other);
            false
        }
    }
}

/// The ports of the containers that run beside each other: all containers, and the init containers that are
/// sidecars (Kubernetes, "Sidecar Containers": `restartPolicy: Always`).
fn ports(spec: &SpecFields, notes: &mut Notes) -> Vec<ContainerPort> {
    let mut ports = Vec::new();
    let sidecar = |c: &ContainerFields| c.restart_policy.as_deref() == Some("Always");
    let containers = spec.containers.iter().flatten().enumerate().map(|c| ("containers", c));
    let sidecars = spec.init_containers.iter().flatten().enumerate().filter(|(_, c)| sidecar(c));
    for (list, (i, container)) in containers.chain(sidecars.map(|c| ("initContainers", c))) {
        for (j, fields) in container.ports.iter().flatten().enumerate() {
            let field = format_args!("spec.{list}[{i}].ports[{j}]");
            ports.extend(port(fields, spec.host_network.unwrap_or_default(), field, notes));
        }
    }
    ports
}

fn port(
    fields: &PortFields,
    host_network: bool,
    field: std::fmt::Arguments<'_>,
    notes: &mut Notes,
) -> Option<ContainerPort> {
    let protocol = notes.protocol(format_args!("{field}.protocol"), fields.protocol.as_deref())?;
    let port = notes.port(format_args!("{field}.containerPort"), fields.container_port)?;
    let host_port = match fields.host_port {
        // 0 is how Kubernetes writes "none"; with hostNetwork the API server fills in the containerPort.
        None | Some(0) => host_network.then_some(port),
        Some(number) => Some(notes.port(format_args!("{field}.hostPort"), number)?),
    };
    Some(ContainerPort { name: fields.name.clone().unwrap_or_default(), port, host_port, protocol })
}

impl ContainerStatus {
    /// The id without the name of the runtime (Kubernetes, `ContainerStatus`: `<type>://<container_id>`), while it runs.
    fn running(&self) -> Option<Box<str>> {
        self.state.as_ref()?.running.as_ref()?;
        let (_, id) = self.container_id.as_deref()?.split_once("://")?;
        Some(id.into())
    }
}

impl Condition {
    fn is_ready(&self) -> bool {
        self.kind.as_deref() == Some("Ready") && self.status.as_deref() == Some("True")
    }
}
