//! Nodes, reduced to what `resolve` needs.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Deserialize;
use serde_json::Value;

use super::{
    document::Document,
    notes::{Metadata, Notes},
    policy::usable_ip,
};
use crate::objects::Node;

#[derive(Deserialize)]
struct NodeFields {
    metadata: Metadata<Annotations>,
    spec: Option<SpecFields>,
    status: Option<StatusFields>,
}

#[derive(Deserialize)]
struct SpecFields {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "balancing.elf.io/nodeProxyIpv4")]
    proxy_ipv4: Option<Value>,
    #[serde(rename = "balancing.elf.io/nodeProxyIpv6")]
    proxy_ipv6: Option<Value>,
}

#[derive(Deserialize)]
struct StatusFields {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: Option<String>,
    address: Option<String>,
}

/// Reads a node.
///
/// # Errors
///
/// When a field has a type that no node has; the message names it.
pub(super) fn read(document: &Document<'_>, notes: &mut Notes) -> Result<Node, String> {
    let NodeFields { metadata, spec, status } = document.decode()?;
    let (mut ips, mut other_ips) = (BTreeSet::new(), BTreeSet::new());
    for (i, address) in status.and_then(|s| s.addresses).iter().flatten().enumerate() {
        let text = address.address.as_deref().unwrap_or_default();
        if address.kind.as_deref() == Some("InternalIP") {
            notes.ip(format_args!("status.addresses[{i}].address"), text, &mut ips);
        } else {
            // Names stand there, too.
            other_ips.extend(text.parse::<IpAddr>().map(|ip| ip.to_canonical()));
        }
    }
    Ok(Node {
        name: metadata.name,
        uid: metadata.uid.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default().into_iter().collect(),
        ips: ips.into(),
        other_ips: other_ips.into(),
        pod_networks: spec
            .and_then(|spec| spec.pod_cidrs)
            .iter()
            .flatten()
            .filter_map(|cidr| cidr.parse().ok())
            .collect(),
        proxy_ips: metadata.annotations.map(|a| proxy_ips(&a, notes)).unwrap_or_default().into(),
    })
}

fn proxy_ips(annotations: &Annotations, notes: &mut Notes) -> BTreeSet<IpAddr> {
    let mut ips = BTreeSet::new();
    let v4 = ("nodeProxyIpv4", "must be an IPv4 address", &annotations.proxy_ipv4);
    let v6 = ("nodeProxyIpv6", "must be an IPv6 address", &annotations.proxy_ipv6);
    for (name, rule, value) in [v4, v6] {
        // An empty annotation is how one is cleared by hand.
        let Some(value) = value.as_ref().filter(|v| v.as_str() != Some("")) else { continue };
        let wants_v4 = name == "nodeProxyIpv4";
        match value.as_str().map(usable_ip) {
            Some(Ok(ip)) if ip.is_ipv4() == wants_v4 => {
                ips.insert(ip);
            }
            Some(Err(rule)) => notes.left_out(field(name), rule, value),
            Some(Ok(_)) | None => notes.left_out(field(name), rule, value),
        }
    }
    ips
}

fn field(name: &str) -> String {
    format!("metadata.annotations[\"balancing.elf.io/{name}\"]")
}
