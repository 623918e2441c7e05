//! Which endpoints a policy wants to be listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Endpoint, Endpoints, Group, Owner, Wanted};
use balancing_core::{
    objects::{
        BackendPort, BackendSpec, FrontendSpec, ObjectRef, Pod, PodBackend, PolicyRef, Port, RedirectMode,
        Service,
    },
    resolve::{Engine, Family, Standing, approve, reach},
    snapshot::Snapshot,
};

/// Ports of one slice (Kubernetes, `EndpointSlice` of `discovery.k8s.io/v1`).
const PORTS: usize = 100;

/// What the slices of a policy shall hold; `None` = it has none: it is gone, invalid, disabled, meant for no host
/// or neither balanced over pods nor after external addresses.
pub(crate) fn wanted(engine: &Engine, id: &PolicyRef) -> Option<Wanted> {
    let snapshot = engine.snapshot();
    let resolution = engine.resolution(id).filter(|r| r.standing == Standing::Active)?;
    let policy = snapshot.policy(id)?;
    let spec = policy.spec.as_ref().ok()?;
    let approved = approve(id, spec, snapshot);
    let groups = match &spec.backend {
        BackendSpec::Pods { pods, mode } => groups(&spec.frontend, pods, *mode, snapshot),
        _ if approved.is_some() => BTreeMap::new(),
        BackendSpec::LocalPods(_) | BackendSpec::Addresses { .. } => return None,
    };
    let owner = Owner {
        policy: id.name.clone(),
        uid: policy.uid.clone(),
        service_id: resolution.service_id,
        generation: Some(policy.generation),
    };
    Some(Wanted { owner, approved, groups })
}

/// The pods by what their endpoints have in common.
fn groups(
    frontend: &FrontendSpec,
    pods: &PodBackend,
    mode: RedirectMode,
    snapshot: &Snapshot,
) -> BTreeMap<Group, Endpoints> {
    let service = match frontend {
        FrontendSpec::Service { service, .. } => snapshot.service(service),
        FrontendSpec::Address { .. } => None,
    };
    let mut groups = BTreeMap::<Group, Endpoints>::new();
    for pod in snapshot.select(&pods.selector, pods.namespace.as_deref(), None) {
        if pod.finished {
            continue;
        }
        for family in [Family::V4, Family::V6] {
            let Some((ip, ports)) = reached_at(pod, &pods.ports, mode, family, service, snapshot) else {
                continue;
            };
            let name = ObjectRef { namespace: pod.namespace.clone(), name: pod.name.clone() };
            let group = Group { family, ports };
            groups.entry(group).or_default().insert(name, endpoint(pod, ip, snapshot));
        }
    }
    groups
}

fn endpoint(pod: &Pod, ip: IpAddr, snapshot: &Snapshot) -> Endpoint {
    Endpoint {
        uid: pod.uid.clone(),
        ip,
        node: pod.node.clone(),
        zone: snapshot.node(&pod.node).map_or("", |node| node.zone()).to_owned(),
        ready: pod.is_available(),
        serving: pod.ready,
        terminating: pod.terminating,
    }
}

/// Where connections to the pod go, and the backend ports for which they do: its own address, or one of its node.
fn reached_at(
    pod: &Pod,
    ports: &[BackendPort],
    mode: RedirectMode,
    family: Family,
    service: Option<&Service>,
    snapshot: &Snapshot,
) -> Option<(IpAddr, BTreeSet<Port>)> {
    let node = snapshot.node(&pod.node);
    let reached = ports.iter().filter_map(|port| {
        let ip = reach::address(pod, node, port, mode, family, service).ok().filter(is_listable)?;
        Some((ip, port.port.clone()))
    });
    // The address does not depend on the port.
    let mut at = None;
    let ports = reached.take(PORTS).map(|(ip, port)| (at = Some(ip), port).1).collect();
    Some((at?, ports))
}

/// One address that the API server refuses in a slice would keep all others out of it, too (Kubernetes 1.36,
/// `ValidateEndpointIP`).
fn is_listable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let local_multicast = ip.octets()[..3] == [224, 0, 0];
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_link_local() || local_multicast)
        }
        IpAddr::V6(ip) => {
            let local_multicast = ip.segments()[0] & 0xff0f == 0xff02;
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_unicast_link_local() || local_multicast)
        }
    }
}
