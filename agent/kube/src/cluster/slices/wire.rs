//! Slices to and from the EndpointSlices of the API server.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancing_abi::model::{PolicyKind, Protocol};
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        discovery::v1::{Endpoint as ApiEndpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{Endpoint, Endpoints, Group, Known, Owner, Slice};
use balancing_core::{
    names::{
        ANNOTATION_EXTERNAL, ANNOTATION_GENERATION, ANNOTATION_SLICES, GROUP, LABEL_MANAGED_BY,
        LABEL_PROXY_NAME, LABEL_SERVICE_ID, MANAGED_BY, VERSION,
    },
    objects::{ObjectRef, Port},
    resolve::Family,
};

const KIND: PolicyKind = PolicyKind::Balancing;

/// The object to write; with `replaces` only if it is still the one that was seen.
pub(crate) fn to_api(slice: &Slice, namespace: &str, replaces: Option<&Known>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(slice.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: replaces.map(|known| known.uid.clone()),
            resource_version: replaces.map(|known| known.version.clone()),
            labels: Some(labels(slice.owner.service_id)),
            annotations: Some(annotations(slice.owner.generation, slice.set_size, slice.approved.as_ref())),
            owner_references: Some(vec![reference(&slice.owner)]),
            ..ObjectMeta::default()
        },
        address_type: slice.group.family.to_string(),
        ports: Some(slice.group.ports.iter().map(port_to_api).collect()),
        endpoints: slice.endpoints.iter().map(|(pod, endpoint)| endpoint_to_api(pod, endpoint)).collect(),
    }
}

/// What an object of the API server says. What it lacks or has too much makes it inexact.
pub(crate) fn from_api(object: &EndpointSlice) -> Known {
    let meta = &object.metadata;
    let references = meta.owner_references.as_deref().unwrap_or_default();
    let reference_of = |r: &&OwnerReference| r.kind == KIND.kind() && r.api_version.starts_with(GROUP);
    let found = references.iter().find(reference_of);
    let no_labels = BTreeMap::new();
    let found_labels = meta.labels.as_ref().unwrap_or(&no_labels);
    let service_id = found_labels.get(LABEL_SERVICE_ID).and_then(|id| id.parse().ok()).unwrap_or(0);
    let no_annotations = BTreeMap::new();
    let found_annotations = meta.annotations.as_ref().unwrap_or(&no_annotations);
    let generation = found_annotations.get(ANNOTATION_GENERATION).and_then(|text| text.parse().ok());
    let set_size = found_annotations.get(ANNOTATION_SLICES).and_then(|text| text.parse().ok());
    let approved = found_annotations.get(ANNOTATION_EXTERNAL).and_then(|text| addresses(text));
    let of_a_family =
        [Family::V4, Family::V6].map(|family| family.to_string()).contains(&object.address_type);
    let owner = Owner {
        // Another address type cannot be changed into one of use: such a slice belongs to nobody.
        policy: found.filter(|_| of_a_family).map_or(String::new(), |r| r.name.clone()),
        uid: found.map_or(String::new(), |r| r.uid.clone()),
        service_id,
        generation,
    };
    let family = if object.address_type == Family::V6.to_string() { Family::V6 } else { Family::V4 };
    let listed_ports = object.ports.as_deref().unwrap_or_default();
    let ports: BTreeSet<Port> = listed_ports.iter().filter_map(port_from_api).collect();
    let endpoints: Endpoints = object.endpoints.iter().filter_map(endpoint_from_api).collect();
    let exact = references == [reference(&owner)]
        && labels(service_id).iter().all(|(name, value)| found_labels.get(name) == Some(value))
        && has_annotations(found_annotations, &annotations(generation, set_size, approved.as_ref()))
        && ports.len() == listed_ports.len()
        && endpoints.len() == object.endpoints.len();
    Known {
        slice: Slice {
            name: meta.name.clone().unwrap_or_default(),
            owner,
            set_size,
            approved,
            group: Group { family, ports },
            endpoints,
        },
        exact,
        uid: meta.uid.clone().unwrap_or_default(),
        version: meta.resource_version.clone().unwrap_or_default(),
    }
}

/// Whether it is one of ours: by its label, or because a BalancingPolicy owns it although the label is gone.
pub(crate) fn is_ours(object: &EndpointSlice) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(LABEL_MANAGED_BY)).map(String::as_str) == Some(MANAGED_BY)
        || !from_api(object).slice.owner.policy.is_empty()
}

fn labels(service_id: u32) -> BTreeMap<String, String> {
    [
        (LABEL_MANAGED_BY, MANAGED_BY.to_owned()),
        (LABEL_PROXY_NAME, MANAGED_BY.to_owned()),
        (LABEL_SERVICE_ID, service_id.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn annotations(
    generation: Option<i64>,
    set_size: Option<usize>,
    approved: Option<&BTreeSet<IpAddr>>,
) -> BTreeMap<String, String> {
    let generation = generation.map(|number| (ANNOTATION_GENERATION.to_owned(), number.to_string()));
    let set_size = set_size.map(|number| (ANNOTATION_SLICES.to_owned(), number.to_string()));
    let approved = approved.map(|addresses| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        (ANNOTATION_EXTERNAL.to_owned(), addresses.join(","))
    });
    generation.into_iter().chain(set_size).chain(approved).collect()
}

/// Whether those of ours are as they should be.
fn has_annotations(found: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    let ours = [ANNOTATION_GENERATION, ANNOTATION_SLICES, ANNOTATION_EXTERNAL];
    ours.iter().all(|name| found.get(*name) == wanted.get(*name))
}

/// `None` = something else stands there.
fn addresses(text: &str) -> Option<BTreeSet<IpAddr>> {
    text.split(',').filter(|ip| !ip.is_empty()).map(|ip| ip.parse().ok()).collect()
}

/// With it Kubernetes removes the slice after its policy, even when no agent runs any more.
fn reference(owner: &Owner) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: KIND.kind().to_owned(),
        name: owner.policy.clone(),
        uid: owner.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn port_to_api(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port.into()),
        protocol: Some(port.protocol.to_string()),
        app_protocol: None,
    }
}

fn port_from_api(port: &EndpointPort) -> Option<Port> {
    let protocol = match port.protocol.as_deref() {
        Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        _ => return None,
    };
    let number = u16::try_from(port.port?).ok().filter(|_| port.app_protocol.is_none())?;
    Some(Port { port: number, protocol, name: port.name.clone().unwrap_or_default() })
}

fn endpoint_to_api(pod: &ObjectRef, endpoint: &Endpoint) -> ApiEndpoint {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    ApiEndpoint {
        addresses: vec![endpoint.ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(endpoint.ready),
            serving: Some(endpoint.serving),
            terminating: Some(endpoint.terminating),
        }),
        node_name: text(&endpoint.node),
        zone: text(&endpoint.zone),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: text(&endpoint.uid),
            ..ObjectReference::default()
        }),
        ..ApiEndpoint::default()
    }
}

fn endpoint_from_api(endpoint: &ApiEndpoint) -> Option<(ObjectRef, Endpoint)> {
    let [address] = endpoint.addresses.as_slice() else { return None };
    let conditions = endpoint.conditions.as_ref()?;
    let target = endpoint.target_ref.as_ref()?;
    let pod = ObjectRef { namespace: target.namespace.clone()?, name: target.name.clone()? };
    let known = Endpoint {
        uid: target.uid.clone().unwrap_or_default(),
        ip: address.parse().ok()?,
        node: endpoint.node_name.clone().unwrap_or_default(),
        zone: endpoint.zone.clone().unwrap_or_default(),
        ready: conditions.ready?,
        serving: conditions.serving?,
        terminating: conditions.terminating?,
    };
    (endpoint_to_api(&pod, &known) == *endpoint).then_some((pod, known))
}
