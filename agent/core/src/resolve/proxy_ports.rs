//! Who has a port at the nodes' proxy addresses: of two policies that lead it to different pods the senior one.
//!
//! A port there is one for all clients, so a policy that is in force for some of them only, or on no node at all, holds its port
//! against the others: as long as its spec is valid and enabled.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{ProxyPort, settle::Rank};
use crate::objects::{BackendSpec, ObjectRef, PodBackend, Policy, PolicyRef, PortRef, RedirectMode};

/// Which pods, and which of their ports. Policies that agree in this may share a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    pods: PodBackend,
    port: Option<PortRef>,
    name: String,
    /// By its target ports.
    service: Option<ObjectRef>,
}

/// All ports.
#[derive(Debug, Default)]
pub(super) struct ProxyPorts {
    ports: BTreeMap<ProxyPort, BTreeMap<Rank, Target>>,
    by_policy: BTreeMap<PolicyRef, (Rank, Vec<ProxyPort>)>,
}

impl ProxyPorts {
    /// Takes in a policy as it is now, `None` when it is gone; those whose right to a port may have changed.
    pub(super) fn update(&mut self, id: &PolicyRef, policy: Option<&Policy>) -> BTreeSet<PolicyRef> {
        let mut touched = BTreeSet::new();
        let wanted = policy.map(targets).unwrap_or_default();
        let before = self.by_policy.get(id);
        let same = |(rank, ports): &(Rank, Vec<ProxyPort>)| {
            policy.is_some_and(|policy| Rank::of(policy) == *rank)
                && ports.len() == wanted.len()
                && wanted
                    .iter()
                    .all(|(port, target)| self.ports.get(port).and_then(|p| p.get(rank)) == Some(target))
        };
        if before.map_or(wanted.is_empty(), same) {
            return touched;
        }
        if let Some((rank, ports)) = self.by_policy.remove(id) {
            for port in ports {
                touched.extend(self.sharers(port));
                if let Entry::Occupied(mut holders) = self.ports.entry(port) {
                    holders.get_mut().remove(&rank);
                    if holders.get().is_empty() {
                        holders.remove();
                    }
                }
            }
        }
        if let Some(policy) = policy.filter(|_| !wanted.is_empty()) {
            let rank = Rank::of(policy);
            self.by_policy.insert(id.clone(), (rank.clone(), wanted.keys().copied().collect()));
            for (port, target) in wanted {
                self.ports.entry(port).or_default().insert(rank.clone(), target);
                touched.extend(self.sharers(port));
            }
        }
        touched
    }

    /// The port of this policy that a senior one leads to other pods, and that policy.
    pub(super) fn winner_over(&self, policy: &PolicyRef) -> Option<(ProxyPort, &PolicyRef)> {
        let (rank, ports) = self.by_policy.get(policy)?;
        ports.iter().find_map(|port| {
            let holders = self.ports.get(port)?;
            let own = holders.get(rank)?;
            let senior = holders.range(..rank.clone()).find(|(_, target)| *target != own)?;
            Some((*port, &senior.0.policy))
        })
    }

    fn sharers(&self, port: ProxyPort) -> Vec<PolicyRef> {
        self.ports
            .get(&port)
            .into_iter()
            .flat_map(|holders| holders.keys().map(|rank| rank.policy.clone()))
            .collect()
    }
}

/// What a policy wants of which port.
fn targets(policy: &Policy) -> BTreeMap<ProxyPort, Target> {
    let Ok(spec) = &policy.spec else { return BTreeMap::new() };
    let BackendSpec::Pods { pods, mode: RedirectMode::NodeProxy } = &spec.backend else {
        return BTreeMap::new();
    };
    if !spec.enabled {
        return BTreeMap::new();
    }
    let service = spec.frontend.service();
    let ports = pods.ports.iter().filter(|port| port.port.port != 0);
    let target = |target: &Option<PortRef>, name: &str| Target {
        pods: PodBackend { ports: Vec::new(), ..pods.clone() },
        port: target.clone(),
        // A number says all; else names lead to the port of the pod.
        name: if target.is_none() { name.to_owned() } else { String::new() },
        service: if target.is_none() { service.cloned() } else { None },
    };
    ports.map(|p| ((p.port.port, p.port.protocol), target(&p.target, &p.port.name))).collect()
}

#[cfg(test)]
mod tests {
    use balancing_abi::model::Protocol::{Tcp, Udp};

    use super::*;
    use crate::{objects::Object, plan::Reason, resolve::fixtures::*};

    fn policy(name: &str, created: i64, app: &str, front: &str, port: u16) -> Policy {
        let mut pods = web_pods(&[("", port, Tcp)]);
        pods.selector = selector(&[("app", app)]);
        pods.ports[0].target = Some(PortRef::Number(80));
        let frontend = at_address(front, &[("", 80, Tcp)]);
        mk_balancing(name, frontend, pods, RedirectMode::NodeProxy).created(Some(created))
    }

    /// The policies that have lost, with their winners.
    fn lost(lab: &Lab) -> Vec<String> {
        let verdicts =
            lab.engine.verdicts().iter().filter(|(_, verdict)| verdict.reason == Reason::Conflicted);
        verdicts
            .map(|(policy, v)| format!("{}<{}", policy.name, v.conflicts_with.first().unwrap().name))
            .collect()
    }

    #[test]
    fn of_two_that_lead_a_port_to_other_pods_the_younger_one_loses_until_the_other_goes() {
        let older = policy("b", 1, "x", "10.9.9.1", 20080);
        let mut lab = Lab::of([policy("a", 2, "y", "10.9.9.2", 20080).into(), older.clone().into()]);
        assert_eq!(lost(&lab), ["a<b"]);
        let verdict = lab.verdict(&balancing("a"));
        assert!(verdict.frontends.is_empty());
        assert!(
            verdict.message.contains("its proxy port 20080/TCP belongs to the older"),
            "{}",
            verdict.message
        );
        lab.delete(older.clone());
        assert_eq!(lost(&lab), [""; 0]);
        lab.put(older.clone());
        assert_eq!(lost(&lab), ["a<b"]);
        // In force nowhere, it holds the port all the same; disabled it does not.
        lab.put(older.clone().with(|spec| spec.node_selector = selector(&[("no", "node")])));
        assert_eq!(lost(&lab), ["a<b"]);
        lab.put(older.with(|spec| spec.enabled = false));
        assert_eq!(lost(&lab), [""; 0]);
    }

    #[test]
    fn the_same_pods_another_port_and_another_protocol_are_no_conflict() {
        let first: Object = policy("a", 1, "x", "10.9.9.1", 20080).into();
        let udp = policy("d", 4, "z", "10.9.9.4", 20080).with(|spec| {
            if let BackendSpec::Pods { pods, .. } = &mut spec.backend {
                pods.ports[0].port.protocol = Udp;
            }
        });
        let lab = Lab::of([
            first,
            policy("b", 2, "x", "10.9.9.2", 20080).into(),
            policy("c", 3, "y", "10.9.9.3", 20081).into(),
            udp.into(),
        ]);
        assert_eq!(lost(&lab), [""; 0]);
    }
}
