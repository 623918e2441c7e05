//! Services, reduced to what `resolve` needs.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::{
    document::Document,
    namespace_or_default,
    notes::{IpEntry, Metadata, NoAnnotations, Notes},
};
use crate::objects::{PortRef, Service, ServicePort};

#[derive(Deserialize)]
struct ServiceFields {
    metadata: Metadata<NoAnnotations>,
    spec: Option<SpecFields>,
    status: Option<StatusFields>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct SpecFields {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<PortFields>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortFields {
    name: Option<String>,
    port: i64,
    protocol: Option<String>,
    target_port: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusFields {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Deserialize)]
struct LoadBalancer {
    ingress: Option<Vec<IpEntry>>,
}

/// Reads a Service.
///
/// # Errors
///
/// When a field has a type that no Service has; the message names it.
pub(super) fn read(document: &Document<'_>, notes: &mut Notes) -> Result<Service, String> {
    let ServiceFields { metadata, spec, status } = document.decode()?;
    let spec = spec.unwrap_or_default();
    // clusterIP mirrors the first of clusterIPs; objects written by hand often have only the former.
    let cluster_ips = match spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips,
        Some(_) | None => spec.cluster_ip.into_iter().collect(),
    };
    let headless = cluster_ips.first().is_some_and(|ip| ip == "None");
    let ingress = status.and_then(|s| s.load_balancer).and_then(|l| l.ingress).unwrap_or_default();
    let mut cluster = BTreeSet::new();
    for (i, ip) in cluster_ips.iter().enumerate().filter(|_| !headless) {
        notes.ip(format_args!("spec.clusterIPs[{i}]"), ip, &mut cluster);
    }
    let mut external = BTreeSet::new();
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        notes.ip(format_args!("spec.externalIPs[{i}]"), ip, &mut external);
    }
    Ok(Service {
        namespace: namespace_or_default(&metadata.namespace.unwrap_or_default()),
        name: metadata.name,
        external_name: spec.kind.as_deref() == Some("ExternalName"),
        headless,
        cluster_ips: cluster.into(),
        external_ips: external.into(),
        load_balancer_ips: notes.ips("status.loadBalancer.ingress", Some(&ingress), "", None),
        ports: ports(spec.ports.as_deref().unwrap_or_default(), notes),
    })
}

fn ports(list: &[PortFields], notes: &mut Notes) -> Vec<ServicePort> {
    list.iter()
        .enumerate()
        .filter_map(|(i, fields)| {
            let protocol =
                notes.protocol(format_args!("spec.ports[{i}].protocol"), fields.protocol.as_deref())?;
            let port = notes.port(format_args!("spec.ports[{i}].port"), fields.port)?;
            let target = target(fields.target_port.as_ref(), port, i, notes)?;
            Some(ServicePort { name: fields.name.clone().unwrap_or_default(), port, protocol, target })
        })
        .collect()
}

fn target(value: Option<&Value>, port: u16, i: usize, notes: &mut Notes) -> Option<PortRef> {
    let field = format_args!("spec.ports[{i}].targetPort");
    match value {
        None => Some(PortRef::Number(port)),
        // 0 and "" are the unset forms of IntOrString.
        Some(Value::Number(n)) if n.as_i64() == Some(0) => Some(PortRef::Number(port)),
        Some(Value::Number(n)) if n.as_i64().is_some() => {
            notes.port(field, n.as_i64().unwrap_or_default()).map(PortRef::Number)
        }
        Some(Value::String(name)) if name.is_empty() => Some(PortRef::Number(port)),
        Some(Value::String(name)) => Some(PortRef::Name(name.clone())),
        Some(other) => {
            notes.left_out(field, "must be a number or the name of a container port", other);
            None
        }
    }
}
