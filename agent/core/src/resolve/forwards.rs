//! What the proxy of this node forwards: for each port that a `nodeProxy` policy declares, the ready pods of the node.
//!
//! It looks at the policies themselves and not at their resolutions: the proxy serves clients on other hosts, so it does not
//! matter whether the policy is in force for clients of this node. A port is declared as long as its policy is, also
//! while none of its pods is ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
};

use balancing_abi::model::{Backend, Protocol};

use super::{Engine, Family, on_no_backend, reach, settle::Rank};
use crate::objects::{BackendPort, BackendSpec, OnNoBackend, Policy, PolicyRef, RedirectMode};

/// A port of a proxy address.
pub type ProxyPort = (u16, Protocol);

/// What one policy wants of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The policy.
    pub policy: PolicyRef,
    /// Its service id.
    pub service_id: u32,
    /// The ready pods of the node, all addresses of each, and the port.
    pub pods: BTreeSet<(Vec<IpAddr>, u16)>,
    /// Seconds a client keeps its pod.
    pub affinity: Option<NonZeroU32>,
    /// Without a pod: refuse.
    pub reject: bool,
}

/// All forwards of a node.
#[derive(Debug, Default)]
pub struct Forwards {
    ports: BTreeMap<ProxyPort, BTreeMap<Rank, Forward>>,
    by_policy: BTreeMap<PolicyRef, (Rank, Vec<ProxyPort>)>,
}

impl Forward {
    /// The pods in one family, sorted.
    #[must_use]
    pub fn backends(&self, family: Family) -> Vec<Backend> {
        let reached = self.pods.iter().filter_map(|(addresses, port)| {
            let address = family.pick(addresses)?;
            Some(Backend { address, port: *port, weight: 1 })
        });
        reached.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Forwards {
    /// Looks again at policies that a change touched; the ports whose forward may be another now.
    pub fn update(&mut self, engine: &Engine, touched: &BTreeSet<PolicyRef>) -> BTreeSet<ProxyPort> {
        let mut changed = BTreeSet::new();
        for policy in touched {
            if let Some((rank, ports)) = self.by_policy.remove(policy) {
                for port in ports {
                    self.remove(port, &rank);
                    changed.insert(port);
                }
            }
            let Some(policy) = engine.snapshot().policy(policy) else { continue };
            let wanted = forwards(engine, policy);
            if wanted.is_empty() {
                continue;
            }
            let rank = Rank::of(policy);
            let ports = wanted.keys().copied().collect::<Vec<_>>();
            changed.extend(&ports);
            for (port, forward) in wanted {
                self.ports.entry(port).or_default().insert(rank.clone(), forward);
            }
            self.by_policy.insert(policy.id.clone(), (rank, ports));
        }
        changed
    }

    /// What is forwarded from a port: as the policy says that comes first.
    #[must_use]
    pub fn get(&self, port: ProxyPort) -> Option<&Forward> {
        self.ports.get(&port)?.values().next()
    }

    /// Every declared port with its forward.
    pub fn iter(&self) -> impl Iterator<Item = (ProxyPort, &Forward)> {
        self.ports.iter().filter_map(|(port, forwards)| Some((*port, forwards.values().next()?)))
    }

    fn remove(&mut self, port: ProxyPort, rank: &Rank) {
        let Some(forwards) = self.ports.get_mut(&port) else { return };
        forwards.remove(rank);
        if forwards.is_empty() {
            self.ports.remove(&port);
        }
    }
}

/// What one policy wants, by port.
fn forwards(engine: &Engine, policy: &Policy) -> BTreeMap<ProxyPort, Forward> {
    let Ok(spec) = &policy.spec else { return BTreeMap::new() };
    let BackendSpec::Pods { pods, mode: RedirectMode::NodeProxy } = &spec.backend else {
        return BTreeMap::new();
    };
    if !spec.enabled {
        return BTreeMap::new();
    }
    let (snapshot, here) = (engine.snapshot(), engine.settings().node_name.as_str());
    let service = spec.frontend.service().and_then(|service| snapshot.service(service));
    let selected = snapshot.select(&pods.selector, pods.namespace.as_deref(), Some(here));
    let behind = |port: &BackendPort| {
        let ready = selected.iter().filter(|pod| pod.is_available() && !pod.ips.is_empty());
        let reached = ready.filter_map(|pod| Some((pod.ips.to_vec(), reach::port(port, pod, service)?)));
        reached.collect()
    };
    let forward = |port: &BackendPort| Forward {
        policy: policy.id.clone(),
        service_id: engine.service_id(&policy.id),
        pods: behind(port),
        affinity: spec.affinity.and_then(NonZeroU32::new),
        reject: on_no_backend(spec) == OnNoBackend::Reject,
    };
    // An automatic port is 0 until the controller has given one.
    let declared = pods.ports.iter().filter(|port| port.port.port != 0);
    declared.map(|port| ((port.port.port, port.port.protocol), forward(port))).collect()
}

#[cfg(test)]
mod tests {
    use balancing_abi::model::Protocol::{Tcp, Udp};

    use super::*;
    use crate::{
        objects::{Object, Pod},
        resolve::fixtures::*,
    };

    fn shows(forwards: &Forwards) -> Vec<String> {
        let one = |((port, protocol), forward): (ProxyPort, &Forward)| {
            let to = forward.backends(Family::V4);
            let to: Vec<_> = to.iter().map(|b| format!("{}:{}", b.address, b.port)).collect();
            format!("{port}/{protocol} {} {}", forward.policy.name, to.join(" ")).trim_end().to_owned()
        };
        forwards.iter().map(one).collect()
    }

    fn policy(name: &str, ports: &[(&str, u16, Protocol)]) -> Policy {
        mk_balancing(name, at_address("10.9.9.9", ports), web_pods(ports), RedirectMode::NodeProxy)
    }

    #[test]
    fn a_port_is_declared_as_long_as_its_policy_and_leads_to_ready_pods_of_the_node() {
        let mut lab = Lab::of([]);
        let mut forwards = Forwards::default();
        let mut put = |lab: &mut Lab, object: Object| {
            let touched = lab.change([(object.key(), Some(object))]).touched;
            let changed = forwards.update(&lab.engine, &touched);
            (changed, shows(&forwards))
        };
        let declared = policy("b", &[("a", 20080, Tcp), ("b", 53, Udp)]);
        let (changed, shown) = put(&mut lab, declared.clone().into());
        assert_eq!(shown, ["53/UDP b", "20080/TCP b"]);
        assert_eq!(changed, BTreeSet::from([(53, Udp), (20080, Tcp)]));
        put(&mut lab, Pod { node: "elsewhere".to_owned(), ..mk_pod("b", &["10.0.1.1"]) }.into());
        let pod = mk_pod("a", &["10.0.0.1"]);
        assert_eq!(
            put(&mut lab, pod.clone().into()).1,
            ["53/UDP b 10.0.0.1:53", "20080/TCP b 10.0.0.1:20080"]
        );
        // For whom the policy is in force does not matter to the proxy.
        let of_others = declared.with(|spec| spec.node_selector = selector(&[("no", "node")]));
        assert_eq!(put(&mut lab, of_others.clone().into()).1.len(), 2);
        put(&mut lab, Pod { ready: false, ..pod }.into());
        assert_eq!(put(&mut lab, of_others.clone().into()).1, ["53/UDP b", "20080/TCP b"]);
        assert_eq!(put(&mut lab, of_others.with(|spec| spec.enabled = false).into()).1, [""; 0]);
    }

    #[test]
    fn the_older_policy_has_the_port() {
        let mut lab = Lab::of([mk_pod("a", &["10.0.0.1"]).into()]);
        let mut forwards = Forwards::default();
        let younger = Policy { created: Some(2), ..policy("a", &[("", 20080, Tcp)]) };
        let older = Policy { created: Some(1), ..policy("b", &[("", 20080, Tcp)]) };
        for policy in [younger, older.clone()] {
            let touched = lab.put(policy).touched;
            forwards.update(&lab.engine, &touched);
        }
        assert_eq!(shows(&forwards), ["20080/TCP b 10.0.0.1:20080"]);
        let touched = lab.delete(older).touched;
        assert_eq!(forwards.update(&lab.engine, &touched), BTreeSet::from([(20080, Tcp)]));
        assert_eq!(shows(&forwards), ["20080/TCP a 10.0.0.1:20080"]);
    }
}
