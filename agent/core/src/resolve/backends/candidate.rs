//! A selected pod: one that is known by itself, or one that the elected agent listed.

use std::net::IpAddr;

use crate::{
    objects::{
        BackendPort, BackendSpec, Endpoint, LabelSelector, ObjectRef, Pod, PodBackend, PolicyRef, PolicySpec,
        Port, RedirectMode, Service,
    },
    resolve::{ClusterPods, Family, Role, Settings, backends::target},
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
            listed(id, pods, *mode, snapshot, settings)
        }
        BackendSpec::Pods { pods, .. } => {
            let found = snapshot.select(&pods.selector, pods.namespace.as_deref(), None);
            found.into_iter().map(Candidate::Pod).collect()
        }
        BackendSpec::Addresses { .. } => Vec::new(),
    }
}

/// The listed pods. Of those that are reached at their own address the ones of this node are known first-hand and without
/// the way over a slice, so what a slice says of them does not count. Ways through a node need ports that whoever listed
/// the pods has looked at.
fn listed<'a>(
    id: &PolicyRef,
    pods: &PodBackend,
    mode: RedirectMode,
    snapshot: &'a Snapshot,
    settings: &Settings,
) -> Vec<Candidate<'a>> {
    let knows_own = settings.role == Role::Node && mode == RedirectMode::PodEndpoint;
    let here = knows_own.then_some(settings.node_name.as_str());
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

    /// The address in a family.
    pub(super) fn address(self, family: Family) -> Option<IpAddr> {
        match self {
            Self::Pod(pod) => family.pick(&pod.ips),
            Self::Listed(endpoint, _) => Some(endpoint.ip).filter(|ip| Family::of(*ip) == family),
        }
    }

    /// Whether a way through its node may be taken although no address in the family is known.
    pub(super) fn has_no_address(self) -> bool {
        matches!(self, Self::Pod(pod) if pod.ips.is_empty())
    }

    /// See [`Pod::opens_on_node`].
    pub(super) fn opens_on_node(self, port: &BackendPort) -> bool {
        match self {
            Self::Pod(pod) => pod.opens_on_node(&port.port),
            Self::Listed(_, ports) => ports.contains(&port.port),
        }
    }

    /// The address of its node that the pod itself tells.
    pub(super) fn host_address(self, family: Family) -> Option<IpAddr> {
        match self {
            Self::Pod(pod) => family.pick(&pod.host_ips),
            Self::Listed(..) => None,
        }
    }

    /// Its port behind a node's proxy address.
    pub(super) fn target_port(self, port: &BackendPort, service: Option<&Service>) -> Option<u16> {
        match self {
            Self::Pod(pod) => target::port(port, pod, service),
            Self::Listed(_, ports) => {
                let same = |p: &&Port| (p.protocol, &p.name) == (port.port.protocol, &port.port.name);
                ports.iter().find(same).map(|p| p.port)
            }
        }
    }
}
