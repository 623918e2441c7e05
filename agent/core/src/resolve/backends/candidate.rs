//! A selected pod: one that is known by itself, or one that the controller listed.

use std::net::IpAddr;

use crate::{
    objects::{
        BackendPort, BackendSpec, Endpoint, LabelSelector, ObjectRef, Pod, PodBackend, PolicyRef, PolicySpec,
        Port, RedirectMode,
    },
    resolve::{ClusterPods, Family, Role, Settings},
    snapshot::Snapshot,
};

/// A selected pod.
#[derive(Clone, Copy, Debug)]
pub(super) enum Candidate<'a> {
    /// The pod itself.
    Pod(&'a Pod),
    /// An endpoint with the ports of its slice: who selected it looked at the pod's own ports.
    Listed(&'a Endpoint, &'a [Port]),
}

/// The pods that a policy selects, ready or not.
pub(super) fn select<'a>(
    id: &PolicyRef,
    spec: &'a PolicySpec,
    snapshot: &'a Snapshot,
    settings: &Settings,
) -> Vec<Candidate<'a>> {
    match &spec.backend {
        BackendSpec::LocalPods(pods) => local(pods, &spec.node_selector, snapshot, settings),
        BackendSpec::Pods { pods, mode } if settings.cluster_pods == ClusterPods::Listed => {
            listed(id, pods, snapshot, settings)
        }
        BackendSpec::Pods { pods, .. } => {
            let found = snapshot.select(&pods.selector, pods.namespace.as_deref(), None);
            found.into_iter().map(Candidate::Pod).collect()
        }
        BackendSpec::Addresses { .. } => Vec::new(),
    }
}

/// The listed pods. Those of this node are known first-hand and without the way over a slice, so what a slice says of them
/// does not count.
fn listed<'a>(
    id: &PolicyRef,
    pods: &PodBackend,
    snapshot: &'a Snapshot,
    settings: &Settings,
) -> Vec<Candidate<'a>> {
    let here = (settings.role == Role::Node).then_some(settings.node_name.as_str());
    let slices = snapshot.endpoints(id);
    let all = slices.flat_map(|slice| slice.list.iter().map(move |e| (e, slice.ports.as_slice())));
    let elsewhere = all.filter(|(endpoint, _)| here != Some(endpoint.node.as_str()));
    let mut found: Vec<_> = elsewhere.map(|(endpoint, ports)| Candidate::Listed(endpoint, ports)).collect();
    if here.is_some() {
        let own = snapshot.select(&pods.selector, pods.namespace.as_deref(), here);
        found.extend(own.into_iter().map(Candidate::Pod));
    }
    found
}

/// The address of a listed pod, if the slice is of the family and lists it for the port. Slices of an earlier version,
/// which may be older than the policy's ports, hold addresses of pods, and these are reached at any port.
pub(super) fn listed_at(
    endpoint: &Endpoint,
    ports: &[Port],
    port: &BackendPort,
    mode: RedirectMode,
    family: Family,
) -> Option<IpAddr> {
    let is_for_port = mode == RedirectMode::PodEndpoint || ports.contains(&port.port);
    Some(endpoint.ip).filter(|ip| is_for_port && Family::of(*ip) == family)
}

/// The pods of this node; for the whole cluster those of every node that applies the policy.
fn local<'a>(
    pods: &PodBackend,
    nodes: &LabelSelector,
    snapshot: &'a Snapshot,
    settings: &Settings,
) -> Vec<Candidate<'a>> {
    let everywhere = settings.role == Role::Cluster;
    let here = (!everywhere).then_some(settings.node_name.as_str());
    let applies = |pod: &&Pod| {
        !everywhere
            || *nodes == LabelSelector::default()
            || snapshot.node(&pod.node).is_some_and(|node| nodes.matches(&node.labels))
    };
    let found = snapshot.select(&pods.selector, pods.namespace.as_deref(), here);
    found.into_iter().filter(applies).map(Candidate::Pod).collect()
}

impl<'a> Candidate<'a> {
    /// Whether it takes new connections.
    pub(super) fn is_ready(self) -> bool {
        match self {
            Self::Pod(pod) => pod.is_available(),
            Self::Listed(endpoint, _) => endpoint.ready,
        }
    }

    /// Whether a container of it was seen to end, which the kubelet has not told yet.
    pub(super) fn has_ended(self) -> bool {
        matches!(self, Self::Pod(pod) if pod.container_ended)
    }

    pub(super) fn name(self) -> ObjectRef {
        match self {
            Self::Pod(pod) => ObjectRef { namespace: pod.namespace.clone(), name: pod.name.clone() },
            Self::Listed(endpoint, _) => endpoint.pod.clone(),
        }
    }

    /// The node's name; empty when unknown.
    pub(super) fn node(self) -> &'a str {
        match self {
            Self::Pod(pod) => &pod.node,
            Self::Listed(endpoint, _) => &endpoint.node,
        }
    }
}
