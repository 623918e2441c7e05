//! What the kernel keeps of a fabric: who is let in there, and what of it has to go although no plan can be made.
//!
//! Pure. The device outlives the program, so an agent that starts learns here whom an earlier one let in.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Fabric, Mac, Member, Pair,
    diff::{Entry, Have},
    facts::Link,
};

/// A device of ours with all that belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The device.
    pub link: Link,
    /// What is on it.
    pub have: Have,
}

impl Kept {
    /// Whether the device was made for this fabric as it is now.
    fn is_of(&self, fabric: &Fabric) -> bool {
        let settings = self.link.vxlan.as_ref().map(|vxlan| (vxlan.vni, vxlan.port));
        self.link.fabric() == Some(&fabric.name) && settings == Some((fabric.vni, fabric.port))
    }
}

/// What is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A device.
    Device(u32),
    /// Entries of a device, in batches: within one the order does not matter.
    Entries {
        /// Its number.
        device: u32,
        /// Its name, for people.
        name: String,
        /// The entries.
        batches: Vec<Vec<Entry>>,
    },
}

/// The members that the kernel has, by name. Those that are not among the known ones are called by their Ethernet addresses.
#[must_use]
pub fn members(kept: &[Kept], fabric: &Fabric, known: &[Member]) -> BTreeMap<String, Member> {
    let names: BTreeMap<Mac, &str> = known.iter().map(|member| (member.mac, member.name.as_str())).collect();
    let mut members = BTreeMap::new();
    for kept in kept.iter().filter(|kept| kept.is_of(fabric)) {
        let mut addresses: BTreeMap<Mac, Vec<_>> = BTreeMap::new();
        for (address, mac) in &kept.have.neighbours {
            addresses.entry(*mac).or_default().push(*address);
        }
        for (mac, to) in &kept.have.forwarding {
            let name = names.get(mac).map_or_else(|| mac.to_string(), |name| (*name).to_owned());
            let member = Member {
                name: name.clone(),
                underlay: Pair::from_iter([to.ip]),
                port: to.port.unwrap_or(fabric.port),
                mac: *mac,
                addresses: addresses.remove(mac).into_iter().flatten().collect(),
                mtu: 0,
            };
            members.insert(name, member);
        }
    }
    members
}

/// What has to go so that nobody but these members is reached. Nothing is added, and their own addresses are theirs.
#[must_use]
pub fn reductions(kept: &[Kept], fabric: &Fabric, members: &[Member]) -> Vec<Removal> {
    let known: BTreeMap<Mac, &Member> = members.iter().map(|member| (member.mac, member)).collect();
    let addresses: BTreeSet<_> = members.iter().flat_map(|member| member.addresses.iter()).collect();
    let of = |kept: &Kept| {
        if !kept.is_of(fabric) {
            return Some(Removal::Device(kept.link.index));
        }
        let Have { routes, neighbours, forwarding, .. } = &kept.have;
        let is_single = |length: u8, ipv4: bool| length == if ipv4 { 32 } else { 128 };
        let routes = routes
            .iter()
            .filter(|(to, _)| is_single(to.prefix(), to.is_ipv4()) && !addresses.contains(&to.ip()));
        let neighbours = neighbours.iter().filter(|(address, mac)| {
            known.get(mac).is_none_or(|member| !member.addresses.contains(**address))
        });
        let forwarding = forwarding
            .iter()
            .filter(|(mac, to)| known.get(mac).is_none_or(|member| !member.underlay.contains(to.ip)));
        let peers = neighbours.map(|(&address, &mac)| Entry::Neighbour(address, mac));
        let peers = peers.chain(forwarding.map(|(&mac, &to)| Entry::Forwarding(mac, to)));
        let mut batches =
            vec![routes.map(|(&to, &path)| Entry::Route(to, path)).collect::<Vec<_>>(), peers.collect()];
        batches.retain(|batch| !batch.is_empty());
        let (device, name) = (kept.link.index, kept.link.name.clone());
        (!batches.is_empty()).then_some(Removal::Entries { device, name, batches })
    };
    kept.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        facts::Vxlan,
        plan::{Destination, Path},
    };

    fn fabric() -> Fabric {
        Fabric {
            name: "default".into(),
            vni: 7710,
            port: 7710,
            ipv4_pool: "10.211.0.0/16".parse().ok(),
            ipv6_pool: None,
            mtu: None,
            accept_from: crate::AcceptFrom::Members,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn member(n: u8) -> Member {
        Member {
            name: format!("node.n{n}"),
            underlay: Pair::from_iter([ip(&format!("192.0.2.{n}"))]),
            port: 7710,
            mac: Mac([0x66, 0, 0, 0, 0, n]),
            addresses: Pair::from_iter([ip(&format!("10.211.0.{n}"))]),
            mtu: 0,
        }
    }

    /// A device with members 2 and 3, the latter with a route of its own.
    fn kept() -> Kept {
        let source = ip("10.211.0.1");
        let vxlan = Some(Vxlan { vni: 7710, port: 7710, ..Vxlan::default() });
        let alias = Some("balancing:default".to_owned());
        let peers = [member(2), member(3)];
        let path = |to: &str, mtu| (to.parse().unwrap(), Path { source, mtu });
        Kept {
            link: Link { index: 7, name: "balancing0".into(), alias, vxlan, ..Link::default() },
            have: Have {
                addresses: [source].into(),
                routes: [path("10.211.0.0/16", None), path("10.211.0.3/32", Some(1400))].into(),
                neighbours: peers
                    .iter()
                    .map(|peer| (peer.addresses.iter().next().unwrap(), peer.mac))
                    .collect(),
                forwarding: peers
                    .iter()
                    .map(|peer| {
                        (peer.mac, Destination { ip: peer.underlay.iter().next().unwrap(), port: None })
                    })
                    .collect(),
            },
        }
    }

    #[test]
    fn members_are_known_by_their_ethernet_addresses() {
        let found = members(&[kept()], &fabric(), &[member(2), member(9)]);
        assert_eq!(found["node.n2"], member(2));
        let stranger = member(3).mac.to_string();
        assert_eq!(found[&stranger], Member { name: stranger.clone(), ..member(3) });
        assert_eq!(found.len(), 2);
        assert!(members(&[kept()], &Fabric { vni: 1, ..fabric() }, &[]).is_empty(), "of another fabric");
    }

    #[test]
    fn who_is_no_member_goes_and_nothing_else() {
        assert_eq!(reductions(&[kept()], &fabric(), &[member(2), member(3)]), []);
        let three = kept();
        let reduced = reductions(std::slice::from_ref(&three), &fabric(), &[member(2)]);
        let route = three.have.routes.iter().find(|(to, _)| to.prefix() == 32).unwrap();
        let peer = vec![
            Entry::Neighbour(ip("10.211.0.3"), member(3).mac),
            Entry::Forwarding(member(3).mac, Destination { ip: ip("192.0.2.3"), port: None }),
        ];
        let batches = vec![vec![Entry::Route(*route.0, *route.1)], peer];
        assert_eq!(reduced, [Removal::Entries { device: 7, name: "balancing0".into(), batches }]);
        // Whoever has moved is not there any more.
        let moved = Member { underlay: Pair::from_iter([ip("192.0.2.99")]), ..member(2) };
        let [Removal::Entries { batches, .. }] = &reductions(&[kept()], &fabric(), &[moved, member(3)])[..]
        else {
            panic!("one device");
        };
        let to = Destination { ip: ip("192.0.2.2"), port: None };
        assert_eq!(batches, &[vec![Entry::Forwarding(member(2).mac, to)]]);
    }

    #[test]
    fn a_device_of_another_fabric_goes_as_a_whole() {
        for other in [
            Fabric { name: "other".into(), ..fabric() },
            Fabric { vni: 1, ..fabric() },
            Fabric { port: 1, ..fabric() },
        ] {
            assert_eq!(reductions(&[kept()], &other, &[member(2)]), [Removal::Device(7)]);
        }
    }
}
