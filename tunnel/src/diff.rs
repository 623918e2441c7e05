//! What has to change so that the kernel is as the plan says.
//!
//! Pure: it compares; reading and writing are the work of [`netlink`](crate::netlink).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use crate::{
    Deletions, Mac,
    facts::{DEVICE_IPV4, DEVICE_IPV6, Link, Vxlan},
    plan::{Destination, Device, Path},
};

/// By this protocol number a route is ours.
pub const ROUTE_PROTOCOL: u8 = 111;

/// When a device is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// With everything else.
    Now,
    /// Not yet: one that is down stays so.
    Later,
}

/// One step towards a device as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStep {
    /// It is removed, because what is wrong with it cannot be changed.
    Delete(u32),
    /// It is made. It has then to be looked at again.
    Create,
    /// It stays and changes.
    Set(LinkChange),
}

/// What changes of a device; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Its number.
    pub index: u32,
    /// A new name, for which it is set down.
    pub name: Option<&'static str>,
    /// A new alias.
    pub alias: Option<String>,
    /// A new Ethernet address.
    pub mac: Option<Mac>,
    /// A new MTU.
    pub mtu: Option<u32>,
    /// A new outer source.
    pub local: Option<IpAddr>,
    /// Whether it is set up.
    pub up: bool,
}

/// The device of ours that plays a planned device's part, under whatever name.
#[must_use]
pub fn find<'a>(want: &Device, links: &'a [Link]) -> Option<&'a Link> {
    let mine = |link: &&Link| link.is_ours() || link.is_half_made(want.vni, want.port, want.mac);
    let same_part = |link: &&Link| {
        let local = link.vxlan.as_ref().and_then(|vxlan| vxlan.local);
        ![DEVICE_IPV4, DEVICE_IPV6].contains(&link.name.as_str())
            && local.is_some_and(|local| local.is_ipv4() == want.local.is_ipv4())
    };
    let named = links.iter().filter(mine).find(|link| link.name == want.name);
    named.or_else(|| links.iter().filter(mine).find(same_part))
}

/// The next step towards a planned device; `None` when it is as it should be.
#[must_use]
pub fn link_step(want: &Device, links: &[Link], up: Up) -> Option<LinkStep> {
    let Some(link) = find(want, links) else { return Some(LinkStep::Create) };
    let vxlan = link.vxlan.as_ref()?;
    let alias = link.alias.as_deref() != Some(&want.alias);
    if !can_become(want, vxlan) || (alias && link.alias.is_some()) {
        return Some(LinkStep::Delete(link.index));
    }
    let unchanged = LinkChange { index: link.index, ..LinkChange::default() };
    let renamed = link.name != want.name;
    let change = LinkChange {
        index: link.index,
        name: renamed.then_some(want.name),
        alias: alias.then(|| want.alias.clone()),
        mac: (link.mac != Some(want.mac)).then_some(want.mac),
        mtu: (link.mtu != want.mtu).then_some(want.mtu),
        local: (vxlan.local != Some(want.local)).then_some(want.local),
        up: up == Up::Now && (!link.up || renamed),
    };
    (change != unchanged).then_some(LinkStep::Set(change))
}

/// Whether every device of a plan is as it should be.
#[must_use]
pub fn is_shaped(wanted: &[Device], links: &[Link]) -> bool {
    wanted.iter().all(|want| find(want, links).is_some() && link_step(want, links, Up::Now).is_none())
}

/// Whether what cannot be changed on a living device is right.
fn can_become(want: &Device, vxlan: &Vxlan) -> bool {
    (vxlan.vni, vxlan.port) == (want.vni, want.port)
        && !vxlan.collect_metadata
        && !vxlan.learning
        && vxlan.bound_to == 0
        && vxlan.flags.is_empty()
        && vxlan.local.is_some_and(|local| local.is_ipv4() == want.local.is_ipv4())
}

/// Devices of ours that the plan does not have.
#[must_use]
pub fn surplus(wanted: &[Device], links: &[Link]) -> Vec<u32> {
    let kept: BTreeSet<u32> =
        wanted.iter().filter_map(|want| find(want, links)).map(|link| link.index).collect();
    links.iter().filter(|link| link.is_ours() && !kept.contains(&link.index)).map(|link| link.index).collect()
}

/// What belongs to a device of ours and is of our making: single addresses, routes by protocol, permanent neighbours
/// and permanent forwarding entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Have {
    /// Own tunnel addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Routes over the device.
    pub routes: BTreeMap<IpNetwork, Path>,
    /// Who is behind a tunnel address.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Where the frames for an Ethernet address go.
    pub forwarding: BTreeMap<Mac, Destination>,
}

/// One thing on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An own tunnel address.
    Address(IpAddr),
    /// A route.
    Route(IpNetwork, Path),
    /// A permanent neighbour.
    Neighbour(IpAddr, Mac),
    /// A permanent forwarding entry.
    Forwarding(Mac, Destination),
}

/// Changes of the entries of a device, in batches: within one the order does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Made or replaced, before anything is deleted.
    pub set: Vec<Vec<Entry>>,
    /// Deleted.
    pub delete: Vec<Vec<Entry>>,
}

/// Compares what a device has with what it shall have.
#[must_use]
pub fn changes(want: &Device, have: &Have, deletions: Deletions) -> Changes {
    let entry = |(&mac, &to): (&Mac, &Destination)| Entry::Forwarding(mac, to);
    let (mut set, mut gone) = differ(&want.forwarding, &have.forwarding, entry);
    let (neighbours, no_neighbours) =
        differ(&want.neighbours, &have.neighbours, |(&ip, &mac)| Entry::Neighbour(ip, mac));
    let (routes, no_routes) = differ(&want.routes, &have.routes, |(&to, &path)| Entry::Route(to, path));
    set.extend(neighbours);
    gone.extend(no_neighbours);
    // A route needs its source address; a peer is reachable before a route leads to it, and until none does.
    let addresses = want.addresses.difference(&have.addresses).map(|&ip| Entry::Address(ip)).collect();
    let no_addresses = have.addresses.difference(&want.addresses).map(|&ip| Entry::Address(ip)).collect();
    let mut changes =
        Changes { set: vec![addresses, set, routes], delete: vec![no_routes, gone, no_addresses] };
    if deletions == Deletions::Held {
        changes.delete.clear();
    }
    changes.set.retain(|batch: &Vec<Entry>| !batch.is_empty());
    changes.delete.retain(|batch| !batch.is_empty());
    changes
}

/// What has to be set, and what has to go.
fn differ<K: Ord, V: PartialEq>(
    want: &BTreeMap<K, V>,
    have: &BTreeMap<K, V>,
    entry: impl Fn((&K, &V)) -> Entry,
) -> (Vec<Entry>, Vec<Entry>) {
    let set = want.iter().filter(|(key, value)| have.get(key) != Some(value)).map(&entry).collect();
    let gone = have.iter().filter(|(key, _)| !want.contains_key(key)).map(&entry).collect();
    (set, gone)
}

#[cfg(test)]
mod tests;
