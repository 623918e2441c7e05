//! Which TunnelNodes of a fabric count, where several want the same.
//!
//! Whoever copies what an older member has must not take its place, and nobody takes the place of a Node. It knows no claims: agents
//! do not watch them, and the controller deletes a TunnelNode with an address that somebody else has claimed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{NodeAddresses, has_own_mac, is_of, mac_of};
use crate::objects::{FabricSpec, MemberSpec, Owner, TunnelNode};

/// The members that count, and what is wrong with the others.
#[derive(Default)]
pub(super) struct Accepted<'a> {
    pub(super) own: Option<&'a TunnelNode>,
    pub(super) peers: BTreeMap<&'a str, &'a MemberSpec>,
    pub(super) problems: Vec<String>,
}

/// What decides.
pub(super) struct Rules<'a> {
    pub(super) fabric: &'a FabricSpec,
    pub(super) nodes: NodeAddresses<'a>,
    /// Whoever writes a directory may give MACs as he likes.
    pub(super) is_by_hand: bool,
}

/// What members have that came before.
#[derive(Default)]
struct Taken {
    addresses: BTreeSet<IpAddr>,
    macs: BTreeSet<[u8; 6]>,
    underlays: BTreeSet<IpAddr>,
}

/// Looks at the members of a fabric as `owner` sees them, the oldest first.
pub(super) fn accept<'a>(
    mut members: Vec<(&'a TunnelNode, &'a MemberSpec)>,
    owner: &Owner,
    rules: &Rules<'_>,
) -> Accepted<'a> {
    members.sort_by_key(|(member, _)| (member.created.is_none(), member.created, &member.name));
    let name = owner.kind.object_name(&owner.name);
    let (mut taken, mut accepted) = (Taken::default(), Accepted::default());
    for (member, spec) in members {
        if member.name == name && !is_of(spec, owner) {
            // Of a Node of this name that was deleted: this one inherits nothing.
            continue;
        }
        // This host writes its own MAC again; whatever somebody has put there meanwhile is nobody's.
        let is_own = member.name == name;
        let has_mac = rules.is_by_hand || has_own_mac(member);
        let of_other = (!is_own && !has_mac).then(|| "has a MAC that is not its own".to_owned());
        let why =
            rules.nodes.objection(spec, rules.fabric).or(of_other).or_else(|| taken.objection(spec, has_mac));
        if let Some(why) = why {
            accepted.problems.push(format!("TunnelNode {} {why}: it is left out", member.name));
            continue;
        }
        taken.add(spec, if has_mac { spec.mac } else { mac_of(&spec.fabric, &member.name) });
        if is_own {
            accepted.own = Some(member);
        } else {
            accepted.peers.insert(member.name.as_str(), spec);
        }
    }
    accepted
}

impl Taken {
    fn objection(&self, spec: &MemberSpec, has_mac: bool) -> Option<String> {
        if let Some(address) = spec.addresses.iter().find(|address| self.addresses.contains(*address)) {
            return Some(format!("has the address {address} of an older one"));
        }
        if has_mac && self.macs.contains(&spec.mac) {
            return Some("has the MAC of an older one".to_owned());
        }
        let underlay = spec.underlay().find(|address| self.underlays.contains(address))?;
        Some(format!("has the underlay address {underlay} of an older one"))
    }

    fn add(&mut self, spec: &MemberSpec, mac: [u8; 6]) {
        self.macs.insert(mac);
        self.underlays.extend(spec.underlay());
        self.addresses.extend(spec.addresses.iter().copied());
    }
}
