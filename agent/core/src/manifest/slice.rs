//! EndpointSlices that the controller wrote for a BalancingPolicy.
//!
//! Slices that others manage are not looked at.

use std::{collections::BTreeMap, net::IpAddr};

use balancing_abi::model::PolicyKind;
use serde::Deserialize;

use super::{document::Document, namespace_or_default, notes::Notes};
use crate::{
    names::{ANNOTATION_EXTERNAL, ANNOTATION_GENERATION, ANNOTATION_SLICES, LABEL_MANAGED_BY, MANAGED_BY},
    objects::{Addresses, Endpoint, Endpoints, ObjectRef, PolicyRef, Port},
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceFields {
    metadata: MetadataFields,
    endpoints: Option<Vec<EndpointFields>>,
    ports: Option<Vec<PortFields>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataFields {
    name: String,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerFields>>,
}

#[derive(Deserialize)]
struct OwnerFields {
    kind: String,
    name: String,
    uid: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointFields {
    addresses: Vec<String>,
    conditions: Option<ConditionFields>,
    node_name: Option<String>,
    zone: Option<String>,
    target_ref: Option<TargetFields>,
}

#[derive(Deserialize)]
struct ConditionFields {
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct TargetFields {
    namespace: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct PortFields {
    name: Option<String>,
    port: Option<i64>,
    protocol: Option<String>,
}

/// Reads a slice; `None` when it is not one of ours.
///
/// # Errors
///
/// When a field has a type that no EndpointSlice has, or no policy owns it.
pub(super) fn read(document: &Document<'_>, notes: &mut Notes) -> Result<Option<Endpoints>, String> {
    let SliceFields { metadata, endpoints, ports } = document.decode()?;
    if metadata.labels.unwrap_or_default().get(LABEL_MANAGED_BY).map(String::as_str) != Some(MANAGED_BY) {
        return Ok(None);
    }
    let kind = PolicyKind::Balancing;
    let owner = metadata.owner_references.unwrap_or_default().into_iter().find(|o| o.kind == kind.kind());
    let Some(owner) = owner else {
        return Err(format!("metadata.ownerReferences: no {kind} owns this slice; delete the slice"));
    };
    let annotations = metadata.annotations.unwrap_or_default();
    let endpoints = endpoints.unwrap_or_default().into_iter().enumerate();
    Ok(Some(Endpoints {
        slice: ObjectRef {
            namespace: namespace_or_default(&metadata.namespace.unwrap_or_default()),
            name: metadata.name,
        },
        policy: PolicyRef { kind, name: owner.name },
        policy_uid: owner.uid.unwrap_or_default(),
        generation: annotations.get(ANNOTATION_GENERATION).and_then(|text| text.parse().ok()),
        set_size: annotations.get(ANNOTATION_SLICES).and_then(|text| text.parse().ok()),
        approved: annotations.get(ANNOTATION_EXTERNAL).map(|text| addresses(text)),
        ports: ports
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .filter_map(|(i, p)| port(i, p, notes))
            .collect(),
        list: endpoints.filter_map(|(i, fields)| endpoint(i, fields, notes)).collect(),
    }))
}

/// What cannot be read is not approved.
fn addresses(text: &str) -> Addresses {
    text.split(',').filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()).collect()
}

fn port(i: usize, fields: PortFields, notes: &mut Notes) -> Option<Port> {
    let protocol = notes.protocol(format_args!("ports[{i}].protocol"), fields.protocol.as_deref())?;
    let port = notes.port(format_args!("ports[{i}].port"), fields.port.unwrap_or_default())?;
    Some(Port { port, protocol, name: fields.name.unwrap_or_default() })
}

fn endpoint(i: usize, fields: EndpointFields, notes: &mut Notes) -> Option<Endpoint> {
    let text = fields.addresses.first().map(String::as_str).unwrap_or_default();
    let Ok(ip) = text.parse::<IpAddr>() else {
        notes.left_out(
            format_args!("endpoints[{i}].addresses[0]"),
            "must be an IP address",
            format_args!("{text:?}"),
        );
        return None;
    };
    let target = fields.target_ref.unwrap_or(TargetFields { namespace: None, name: None });
    Some(Endpoint {
        ip: ip.to_canonical(),
        pod: ObjectRef {
            namespace: target.namespace.unwrap_or_default(),
            name: target.name.unwrap_or_default(),
        },
        node: fields.node_name.unwrap_or_default(),
        zone: fields.zone.unwrap_or_default(),
        // Absent means unknown, and a slice of ours always says it.
        ready: fields.conditions.and_then(|c| c.ready).unwrap_or(false),
    })
}
