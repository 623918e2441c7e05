//! Where the connections of a policy may go.
//!
//! Pods count while they are Ready, not terminating and not finished. What has to be left out
//! although it was selected is named, so that a missing backend is never a riddle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use balancing_abi::model::{self, ClientId, Protocol};

use crate::{
    names::{ANNOTATION_PROXY_IPV4, ANNOTATION_PROXY_IPV6},
    objects::{
        BackendPort, BackendSpec, ObjectRef, Pod, PolicyRef, PolicySpec, Port, RedirectMode, Service,
        WeightedAddress,
    },
    plan::Backend,
    resolve::{ClusterPods, Role, Settings},
    snapshot::Snapshot,
};

use candidate::Candidate;
use reach::Obstacle;

mod candidate;
pub mod reach;

/// So many names are written out before a message only counts.
const NAMES: usize = 5;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A forwarding that a node's proxy address has to do: what arrives at `address`:`port` belongs
/// to `pod_address`:`target_port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyTarget {
    /// The node that holds the proxy address.
    pub node: String,
    /// The proxy address.
    pub address: IpAddr,
    /// The port on it.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The pod.
    pub pod: ObjectRef,
    /// The pod's address.
    pub pod_address: IpAddr,
    /// The pod's port.
    pub target_port: u16,
}

/// The backends of one policy and what was learnt while collecting them.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    spec: &'a BackendSpec,
    service: Option<&'a Service>,
    snapshot: &'a Snapshot,
    /// The node this is, on one.
    here: Option<&'a str>,
    /// Where the pods of a LocalRedirectPolicy are, as messages say it.
    place: &'static str,
    /// Pods of other nodes are known by what the controller lists.
    is_listed: bool,
    selected: Vec<Candidate<'a>>,
    eligible: Vec<Candidate<'a>>,
    /// Whether a family that was asked for has a backend.
    families: BTreeMap<Family, bool>,
    /// Names by the reason for which they were left out.
    left_out: BTreeMap<String, BTreeSet<String>>,
    targets: BTreeSet<ProxyTarget>,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The first address of this family.
    #[must_use]
    pub fn pick(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        addresses.iter().map(IpAddr::to_canonical).find(|ip| Self::of(*ip) == self)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl<'a> Pool<'a> {
    /// Selects the pods once for all ports and families.
    pub(super) fn new(
        id: &PolicyRef,
        spec: &'a PolicySpec,
        service: Option<&'a Service>,
        snapshot: &'a Snapshot,
        settings: &'a Settings,
    ) -> Self {
        let here = (settings.role == Role::Node).then_some(settings.node_name.as_str());
        let selected = candidate::select(id, spec, snapshot, settings);
        let eligible = selected.iter().copied().filter(|pod| pod.is_ready()).collect();
        let place = if settings.role == Role::Cluster { "" } else { " on this node" };
        let is_listed =
            settings.cluster_pods == ClusterPods::Listed && matches!(spec.backend, BackendSpec::Pods { .. });
        let (families, left_out, targets) = Default::default();
        Self {
            is_listed,
            spec: &spec.backend,
            service,
            snapshot,
            here,
            place,
            selected,
            eligible,
            families,
            left_out,
            targets,
        }
    }

    /// The backends of one backend port, by position, in one family: sorted, equal ones merged.
    pub(super) fn backends(&mut self, port: usize, family: Family) -> Vec<Backend> {
        let spec = self.spec;
        let found = match spec {
            BackendSpec::Addresses { addresses, ports } => custom(addresses, ports[port].port, family),
            BackendSpec::LocalPods(pods) => self.pods(&pods.ports[port], RedirectMode::PodEndpoint, family),
            BackendSpec::Pods { pods, mode } => self.pods(&pods.ports[port], *mode, family),
        };
        *self.families.entry(family).or_default() |= !found.is_empty();
        merge(found)
    }

    /// How the connections of the selected pods are recognised, ready or not: a pod that is about
    /// to become ready must reach the real destination already.
    pub(super) fn identities(&self) -> BTreeSet<ClientId> {
        let ids = self.selected.iter().filter_map(|candidate| match candidate {
            Candidate::Pod(pod) => self.snapshot.identities(&pod.uid),
            Candidate::Listed(..) => None,
        });
        ids.flatten().copied().collect()
    }

    /// What a user should know about missing backends.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let pods = match self.spec {
            BackendSpec::LocalPods(pods) => Some((self.place, pods)),
            BackendSpec::Pods { pods, .. } => Some(("", pods)),
            BackendSpec::Addresses { addresses, .. } => {
                if addresses.iter().all(|a| a.weight == 0) {
                    notes.push("every address has weight 0".to_owned());
                }
                None
            }
        };
        match pods {
            Some(_) if self.selected.is_empty() && self.is_listed => {
                notes.push("the controller lists no pod for it; the policy's status tells why".to_owned());
            }
            Some((place, pods)) if self.selected.is_empty() => {
                let namespace = pods.namespace.iter().map(|namespace| format!(" in namespace {namespace}"));
                let namespace: String = namespace.collect();
                notes.push(format!("no pod{namespace}{place} matches spec.backend's endpointSelector"));
            }
            Some((place, _)) if self.eligible.is_empty() => {
                // A pod of both families is listed twice.
                let count = self.selected.iter().map(|pod| pod.name()).collect::<BTreeSet<_>>().len();
                let mut note =
                    format!("none of the {count} matching pods{place} is ready to take connections");
                if self.selected.iter().any(|pod| pod.has_ended()) {
                    note.push_str("; a container has ended, which the kubelet has not told yet");
                }
                notes.push(note);
            }
            Some(_) | None => {
                let missing = self.families.iter().filter(|(_, found)| !**found).map(|(family, _)| family);
                notes.extend(missing.map(|family| format!("no backend for the {family} frontends")));
            }
        }
        notes.extend(self.left_out.iter().map(|(why, names)| format!("left out, {why}: {}", shorten(names))));
        notes
    }

    /// What the proxies have to forward.
    pub(super) fn into_targets(self) -> BTreeSet<ProxyTarget> {
        self.targets
    }

    fn pods(&mut self, port: &BackendPort, mode: RedirectMode, family: Family) -> Vec<Backend> {
        let mut found = Vec::with_capacity(self.eligible.len());
        for at in 0..self.eligible.len() {
            let candidate = self.eligible[at];
            let reached = match candidate {
                Candidate::Pod(pod) => self.known(pod, port, mode, family),
                Candidate::Listed(endpoint, ports) => {
                    let address = candidate::listed_at(endpoint, ports, port, mode, family);
                    address.map(|address| (address, port.port.port))
                }
            };
            let Some((address, number)) = reached else { continue };
            found.push(Backend {
                target: model::Backend { address, port: number, weight: 1 },
                pod: Some(candidate.name()),
                node: Some(candidate.node().to_owned()).filter(|node| !node.is_empty()),
            });
        }
        found
    }

    /// Where a pod that is known by itself takes connections; one that has to be left out is noted.
    fn known(
        &mut self,
        pod: &Pod,
        port: &BackendPort,
        mode: RedirectMode,
        family: Family,
    ) -> Option<(IpAddr, u16)> {
        let node = self.snapshot.node(&pod.node);
        let address = reach::address(pod, node, port, mode, family, self.service);
        if mode != RedirectMode::NodeProxy {
            let address = address.map_err(|obstacle| self.leave_out(obstacle, pod, port, family)).ok()?;
            return Some((address, port.port.port));
        }
        let behind = family.pick(&pod.ips).zip(reach::port(port, pod, self.service));
        if let (Ok(proxy), Some(behind)) = (address, behind) {
            self.note_target(pod, proxy, port, behind);
        }
        // The node's own connections meet no program of its tunnel, and the pod is next door: with and without a proxy address.
        match behind.filter(|_| self.here == Some(pod.node.as_str())) {
            Some(direct) => Some(direct),
            None => {
                let proxy = address.map_err(|obstacle| self.leave_out(obstacle, pod, port, family)).ok()?;
                Some((proxy, port.port.port))
            }
        }
    }

    fn note_target(
        &mut self,
        pod: &Pod,
        address: IpAddr,
        port: &BackendPort,
        (pod_address, target_port): (IpAddr, u16),
    ) {
        self.targets.insert(ProxyTarget {
            node: pod.node.clone(),
            address,
            port: port.port.port,
            protocol: port.port.protocol,
            pod: ObjectRef { namespace: pod.namespace.clone(), name: pod.name.clone() },
            pod_address,
            target_port,
        });
    }

    fn leave_out(&mut self, obstacle: Obstacle, pod: &Pod, port: &BackendPort, family: Family) {
        let Port { port, protocol, .. } = &port.port;
        let why = match obstacle {
            // The note on families without a backend says it.
            Obstacle::NoAddress => return,
            Obstacle::NoHostPort => format!("no hostPort {port}/{protocol} declared"),
            Obstacle::NoNodeAddress => format!("no {family} address of the pod's node known"),
            Obstacle::NoProxyAddress => {
                let annotation = match family {
                    Family::V4 => ANNOTATION_PROXY_IPV4,
                    Family::V6 => ANNOTATION_PROXY_IPV6,
                };
                let alone = match family.pick(&pod.ips) {
                    Some(_) if !pod.node.is_empty() => ", and its own clients alone reach its pods",
                    _ => "",
                };
                format!(
                    "node without an {family} proxy address in its annotation {annotation}, which a TunnelFabric or you write{alone}"
                )
            }
            Obstacle::NoTargetPort => format!("no container port for the targetPort of port {port}"),
        };
        let name = match obstacle {
            Obstacle::NoProxyAddress if pod.node.is_empty() => "(no node)".to_owned(),
            Obstacle::NoProxyAddress => pod.node.clone(),
            Obstacle::NoHostPort => format!("{}/{}{}", pod.namespace, pod.name, host_ports(pod)),
            _ => format!("{}/{}", pod.namespace, pod.name),
        };
        self.left_out.entry(why).or_default().insert(name);
    }
}

/// The ports that the pod opens on its node, as a remark on it.
fn host_ports(pod: &Pod) -> String {
    let ports = pod.ports.iter().filter_map(|port| Some(format!("{}/{}", port.host_port?, port.protocol)));
    let ports: BTreeSet<String> = ports.collect();
    if ports.is_empty() { String::new() } else { format!(" (which has {})", shorten(&ports)) }
}

fn custom(addresses: &[WeightedAddress], port: u16, family: Family) -> Vec<Backend> {
    let of_family =
        addresses.iter().map(|a| (a.ip.to_canonical(), a.weight)).filter(|(ip, _)| Family::of(*ip) == family);
    let backend = |(address, weight)| Backend {
        target: model::Backend { address, port, weight },
        pod: None,
        node: None,
    };
    of_family.map(backend).collect()
}

/// Sorts by address and port and adds up the weights of equal ones.
fn merge(mut backends: Vec<Backend>) -> Vec<Backend> {
    backends.sort_unstable();
    backends.dedup_by(|next, kept| {
        let (new, old) = (&next.target, &mut kept.target);
        if (new.address, new.port) != (old.address, old.port) {
            return false;
        }
        old.weight = old.weight.saturating_add(new.weight);
        if kept.pod != next.pod {
            kept.pod = None;
        }
        if kept.node != next.node {
            kept.node = None;
        }
        true
    });
    backends
}

fn shorten(names: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES).map(String::as_str).collect();
    let rest = names.len().saturating_sub(NAMES);
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}
