//! Ports at the proxy addresses of nodes for policies that leave the choice to the controller.
//!
//! It is pure. A port stays with its policy as long as that exists, and no two policies get one port of a protocol; nor one
//! that another policy names itself.

use std::collections::{BTreeMap, BTreeSet};

use balancing_abi::model::Protocol;

use balancing_core::objects::{BackendPort, BackendSpec, Policy, PolicyRef, Port, RedirectMode};

/// The automatic ports of policies.
pub(super) type Given = BTreeMap<PolicyRef, Vec<Port>>;

/// The ports of a policy that lead through nodes' proxy addresses; none of a policy that does not.
pub(super) fn proxied(policy: &Policy) -> &[BackendPort] {
    match policy.spec.as_ref().map(|spec| &spec.backend) {
        Ok(BackendSpec::Pods { pods, mode: RedirectMode::NodeProxy }) => &pods.ports,
        _ => &[],
    }
}

/// The port of every automatic port of these policies, of `range`; older policies first. Where none is left, or there
/// is no range, a port is missing. `before` is what was given last, which the statuses may not say yet.
pub(super) fn allocate(policies: &[&Policy], before: &Given, range: Option<(u16, u16)>) -> Given {
    let mut policies = policies.to_vec();
    policies.sort_by_key(|policy| (policy.created.unwrap_or(i64::MAX), &policy.id));
    let wanted = || {
        let ports =
            policies.iter().flat_map(|policy| proxied(policy).iter().map(move |port| (*policy, port)));
        ports.map(|(policy, port)| (policy, port.automatic, &port.port))
    };
    let mut given = Given::new();
    let mut taken = BTreeSet::<(Protocol, u16)>::new();
    for (policy, _, port) in wanted().filter(|(_, automatic, _)| *automatic) {
        let same = |known: &&Port| known.name == port.name && known.protocol == port.protocol;
        let mut told = before.get(&policy.id).into_iter().flatten().chain(&policy.proxy_ports);
        let kept = told.find(same).filter(|known| taken.insert((known.protocol, known.port)));
        given.entry(policy.id.clone()).or_default().extend(kept.cloned());
    }
    taken.extend(
        wanted().filter(|(_, automatic, _)| !automatic).map(|(_, _, port)| (port.protocol, port.port)),
    );
    let mut next = BTreeMap::<Protocol, u32>::new();
    for (policy, _, port) in wanted().filter(|(_, automatic, _)| *automatic) {
        let ports = given.entry(policy.id.clone()).or_default();
        let (Some((from, to)), false) =
            (range, ports.iter().any(|p| p.name == port.name && p.protocol == port.protocol))
        else {
            continue;
        };
        let next = next.entry(port.protocol).or_insert(from.into());
        // Whatever comes before `next` is taken.
        while let Some(number) = u16::try_from(*next).ok().filter(|number| *number <= to) {
            *next += 1;
            if taken.insert((port.protocol, number)) {
                ports.push(Port { port: number, ..port.clone() });
                break;
            }
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use balancing_core::resolve::fixtures::{Tcp, Udp, at_address, mk_balancing, web_pods};

    use super::*;

    /// A policy with these ports; 0 is an automatic one.
    fn mk(
        name: &str,
        created: i64,
        ports: &[(&str, u16, Protocol)],
        status: &[(&str, u16, Protocol)],
    ) -> Policy {
        let mut pods = web_pods(ports);
        pods.ports.iter_mut().for_each(|port| port.automatic = port.port.port == 0);
        let frontend = at_address("192.0.2.9", &[("a", 80, Tcp)]);
        let policy = mk_balancing(name, frontend, pods, RedirectMode::NodeProxy);
        let proxy_ports = web_pods(status).ports.into_iter().map(|port| port.port).collect();
        Policy { created: Some(created), proxy_ports, ..policy }
    }

    fn given(policies: &[Policy], range: (u16, u16)) -> Vec<String> {
        let all = allocate(&policies.iter().collect::<Vec<_>>(), &Given::new(), Some(range));
        let line = |(policy, ports): (&PolicyRef, &Vec<Port>)| {
            let ports = ports.iter().map(|port| format!(" {}:{}/{}", port.name, port.port, port.protocol));
            format!("{}{}", policy.name, ports.collect::<String>())
        };
        all.iter().map(line).collect()
    }

    #[test]
    fn each_port_is_given_once_and_per_protocol() {
        let policies = [
            mk("a", 2, &[("x", 0, Tcp), ("y", 0, Udp), ("z", 5001, Tcp)], &[]),
            mk("b", 1, &[("x", 0, Tcp)], &[]),
            mk("c", 3, &[("x", 5002, Udp)], &[]),
        ];
        assert_eq!(given(&policies, (5000, 5003)), ["a x:5002/TCP y:5000/UDP", "b x:5000/TCP"]);
    }

    #[test]
    fn a_port_stays_whatever_comes_and_whatever_the_range() {
        let keeps = mk("old", 2, &[("x", 0, Tcp)], &[("x", 4000, Tcp)]);
        let older = mk("older", 1, &[("x", 0, Tcp)], &[]);
        let names_it = mk("names", 0, &[("x", 4000, Tcp)], &[]);
        assert_eq!(given(&[older, keeps, names_it], (5000, 5000)), ["old x:4000/TCP", "older x:5000/TCP"]);
        // Two statuses with one port are somebody's mistake.
        let twice = ["a", "b"].map(|name| mk(name, 1, &[("x", 0, Tcp)], &[("x", 4000, Tcp)]));
        assert_eq!(given(&twice, (5000, 5000)), ["a x:4000/TCP", "b x:5000/TCP"]);
    }

    #[test]
    fn where_no_port_is_left_there_is_none() {
        let policies = ["a", "b"].map(|name| mk(name, 1, &[("x", 0, Tcp)], &[]));
        assert_eq!(given(&policies, (5000, 5000)), ["a x:5000/TCP", "b"]);
        let policies: Vec<_> = policies.iter().collect();
        assert_eq!(allocate(&policies, &Given::new(), None).values().flatten().count(), 0);
        // What was given last counts before its status says so.
        let port = Port { port: 4000, protocol: Tcp, name: "x".to_owned() };
        let before = Given::from([(policies[0].id.clone(), vec![port])]);
        assert_eq!(allocate(&policies, &before, None)[&policies[0].id], before[&policies[0].id]);
    }
}
