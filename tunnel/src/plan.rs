//! What a host shall have for the fabric: devices, addresses, routes, neighbours, forwarding entries, switches.
//!
//! Pure: the same input gives the same plan, in a fixed order. It reads no kernel and removes nothing; the
//! difference to what is there is made in [`diff`](crate::diff).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

mod conflict;

pub use conflict::Conflict;

use crate::{
    Fabric, Facts, Mac, Member,
    facts::{ALIAS, DEVICE_IPV4, DEVICE_IPV6, RouteKind},
    words::Problems,
};

/// Outer headers: Ethernet of the inner packet, VXLAN, UDP, and IPv4 or IPv6.
const OVERHEAD_IPV4: u32 = 50;
const OVERHEAD_IPV6: u32 = 70;
/// MTU of an underlay of which nothing is known.
const UNKNOWN_MTU: u32 = 1500;
/// Below this the kernel carries no IPv6.
const MIN_MTU_IPV6: u32 = 1280;
/// Below this the kernel makes no device.
const MIN_MTU: u32 = 68;

/// What the host shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The fabric's name.
    pub fabric: String,
    /// The primary device, and one for the other underlay family when some peers are dialled over that.
    pub devices: Vec<Device>,
    /// What an administrator should know; the plan holds without it.
    pub problems: Vec<String>,
}

impl Plan {
    /// What fits through every device: the MTU to tell peers.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.devices.iter().map(|device| device.mtu).min().unwrap_or_default()
    }
}

/// A VXLAN device and all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: &'static str,
    /// Its alias, by which it is ours.
    pub alias: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Outer source address.
    pub local: IpAddr,
    /// Its MTU.
    pub mtu: u32,
    /// The member's own tunnel addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Routes over it, all of them on-link.
    pub routes: BTreeMap<IpNetwork, Path>,
    /// Who is behind a tunnel address.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Where the frames for an Ethernet address go.
    pub forwarding: BTreeMap<Mac, Destination>,
    /// Variables below `/proc/sys/net` for it.
    pub sysctls: Vec<Sysctl>,
}

/// How a route leads over a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Preferred source.
    pub source: IpAddr,
    /// Only where it is smaller than the device's.
    pub mtu: Option<u32>,
}

/// A peer on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its address.
    pub ip: IpAddr,
    /// Its port, where it is not the device's.
    pub port: Option<u16>,
}

/// A variable below `/proc/sys/net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Path below `/proc/sys/net`.
    pub path: String,
    /// What it shall say.
    pub value: &'static str,
    /// Whether a host without the variable is worth a word.
    pub needed: bool,
}

/// Makes the plan of a member.
///
/// # Errors
/// When the fabric would get in the way of something else on this host, or lacks what it needs. Whoever gets a
/// conflict leaves the kernel as it is.
pub fn plan(fabric: &Fabric, own: &Member, peers: &[Member], facts: &Facts) -> Result<Plan, Conflict> {
    conflict::find(fabric, own, facts)?;
    let mut problems = Problems::default();
    let dialled = Dialled::choose(own, peers, &mut problems);
    let (ipv4, ipv6) = (own.underlay.v4.map(IpAddr::V4), own.underlay.v6.map(IpAddr::V6));
    let primary_is_ipv4 = ipv4.is_some();
    let mut devices = Vec::new();
    for (local, primary) in [(ipv4, primary_is_ipv4), (ipv6, !primary_is_ipv4)] {
        let Some(local) = local else { continue };
        let over: Vec<Hop<'_>> =
            dialled.0.iter().copied().filter(|hop| hop.ip.is_ipv4() == local.is_ipv4()).collect();
        if primary || !over.is_empty() {
            devices.push(device(fabric, own, local, primary, &over, facts, &mut problems));
        }
    }
    // The primary device comes first: the other one's routes name its address as their source.
    devices.sort_by_key(|device| device.local.is_ipv4() != primary_is_ipv4);
    tell_underlay(&devices, facts, &mut problems);
    tell_forwarding(fabric, facts, &mut problems);
    Ok(Plan { fabric: fabric.name.clone(), devices, problems: problems.into_vec() })
}

fn device(
    fabric: &Fabric,
    own: &Member,
    local: IpAddr,
    primary: bool,
    hops: &[Hop<'_>],
    facts: &Facts,
    problems: &mut Problems,
) -> Device {
    let name = if local.is_ipv4() { DEVICE_IPV4 } else { DEVICE_IPV6 };
    let own_addresses: BTreeSet<IpAddr> =
        own.addresses.iter().filter(|&address| fabric.pool_for(address).is_some()).collect();
    let ipv6 = own_addresses.iter().any(IpAddr::is_ipv6);
    let mut device = Device {
        name,
        alias: format!("{ALIAS}{}", fabric.name),
        vni: fabric.vni,
        port: fabric.port,
        mac: own.mac,
        local,
        mtu: mtu(fabric, local, ipv6, facts, problems),
        addresses: if primary { own_addresses.clone() } else { BTreeSet::new() },
        routes: BTreeMap::new(),
        neighbours: BTreeMap::new(),
        forwarding: BTreeMap::new(),
        sysctls: sysctls(name, ipv6),
    };
    for pool in fabric.pools().filter(|_| primary) {
        match own_addresses.iter().find(|address| address.is_ipv4() == pool.is_ipv4()) {
            Some(&source) => {
                device.routes.insert(network(pool), Path { source, mtu: None });
            }
            None => problems.push(format!("pool {pool} is not reached: this member has no address of it")),
        }
    }
    device.add(fabric, &own_addresses, primary, hops);
    device
}

impl Device {
    /// Adds all peers at once: with thousands of them a map is filled faster from a list.
    fn add(&mut self, fabric: &Fabric, own: &BTreeSet<IpAddr>, primary: bool, hops: &[Hop<'_>]) {
        let source = |address: IpAddr| own.iter().copied().find(|own| own.is_ipv4() == address.is_ipv4());
        // Without an address of our own in the family nothing could be sent there.
        let reached = || {
            let addresses =
                hops.iter().flat_map(|hop| hop.member.addresses.iter().map(|ip| (ip, hop.member)));
            addresses.filter_map(|(ip, peer)| Some((ip, source(ip)?, peer)))
        };
        let port = |peer: &Member| Some(peer.port).filter(|&port| port != 0 && port != fabric.port);
        let to = |hop: &Hop<'_>| (hop.member.mac, Destination { ip: hop.ip, port: port(hop.member) });
        self.forwarding = hops.iter().map(to).collect();
        self.neighbours = reached().map(|(ip, _, peer)| (ip, peer.mac)).collect();
        let device_mtu = self.mtu;
        self.routes.extend(reached().filter_map(|(ip, source, peer)| {
            let mtu = Some(peer.mtu).filter(|&mtu| mtu != 0 && mtu < device_mtu);
            let in_pool = fabric.pool_for(ip).is_some_and(|pool| pool.contains(ip));
            let own_route = mtu.is_some() || !primary || !in_pool;
            own_route.then(|| (IpNetwork::from(ip), Path { source, mtu }))
        }));
    }
}

/// A peer and the address that it is dialled at.
#[derive(Clone, Copy)]
struct Hop<'a> {
    member: &'a Member,
    ip: IpAddr,
}

/// The peers that can be programmed.
struct Dialled<'a>(Vec<Hop<'a>>);

impl<'a> Dialled<'a> {
    /// In the order of names, so that of two peers that claim the same the winner is the same everywhere.
    fn choose(own: &'a Member, peers: &'a [Member], problems: &mut Problems) -> Self {
        let mut claimed = Claims::of(own);
        let mut sorted: Vec<&Member> = peers.iter().filter(|peer| peer.name != own.name).collect();
        sorted.sort_by_key(|peer| &peer.name);
        let mut hops = Vec::with_capacity(sorted.len());
        for member in sorted {
            let Some(ip) = dial(own, member) else {
                problems
                    .push(format!("{}: no underlay address of a family that this host has too", member.name));
                continue;
            };
            if member.addresses.is_empty() {
                problems.push(format!("{}: it has no tunnel address yet", member.name));
            } else if let Some(what) = claimed.taken_from(member, ip) {
                problems.push(format!("{}: another member has {what} too", member.name));
            } else {
                claimed.add(member, ip);
                hops.push(Hop { member, ip });
            }
        }
        Self(hops)
    }
}

/// What members have for themselves alone.
#[derive(Default)]
struct Claims {
    macs: HashSet<Mac>,
    addresses: HashSet<IpAddr>,
    /// Two members may share an underlay address when their ports differ.
    underlays: HashSet<(IpAddr, u16)>,
}

impl Claims {
    fn of(own: &Member) -> Self {
        let mut claims = Self::default();
        own.underlay.iter().for_each(|ip| claims.add(own, ip));
        claims
    }

    fn taken_from(&self, member: &Member, ip: IpAddr) -> Option<String> {
        if self.macs.contains(&member.mac) {
            return Some(format!("the Ethernet address {}", member.mac));
        }
        if self.underlays.contains(&(ip, member.port)) {
            return Some(format!("the underlay address {ip}"));
        }
        let taken = member.addresses.iter().find(|address| self.addresses.contains(address))?;
        Some(format!("the tunnel address {taken}"))
    }

    fn add(&mut self, member: &Member, ip: IpAddr) {
        self.macs.insert(member.mac);
        self.addresses.extend(member.addresses.iter());
        self.underlays.insert((ip, member.port));
    }
}

/// The address at which a pair meets: of the family both have, IPv4 first.
fn dial(own: &Member, peer: &Member) -> Option<IpAddr> {
    let ipv4 = own.underlay.v4.and(peer.underlay.v4).map(IpAddr::V4);
    ipv4.or_else(|| own.underlay.v6.and(peer.underlay.v6).map(IpAddr::V6))
}

fn mtu(fabric: &Fabric, local: IpAddr, ipv6: bool, facts: &Facts, problems: &mut Problems) -> u32 {
    let overhead = if local.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
    let fits = underlay_mtu(local, facts).map(|mtu| mtu.saturating_sub(overhead).max(MIN_MTU));
    if let (Some(fits), Some(wanted)) = (fits, fabric.mtu.filter(|&mtu| fits.is_some_and(|fits| mtu > fits)))
    {
        problems.push(format!(
            "spec.mtu {wanted} does not fit into the underlay of {local}, which leaves {fits}: large packets are lost; set it to \
             {fits} or less, or to 0"
        ));
    }
    let mtu = fabric.mtu.or(fits).unwrap_or(UNKNOWN_MTU - overhead).max(MIN_MTU);
    if ipv6 && mtu < MIN_MTU_IPV6 {
        problems.push(format!("an MTU of {mtu} carries no IPv6, which needs {MIN_MTU_IPV6}"));
    }
    mtu
}

/// The MTU of the link that packets from `local` leave by: the one that has the address, or, where that is the
/// loopback or a dummy device, the one of the default route.
fn underlay_mtu(local: IpAddr, facts: &Facts) -> Option<u32> {
    let link = facts.addresses.iter().filter(|address| address.ip == local).find_map(|address| {
        facts
            .link(address.link)
            .filter(|link| !link.loopback && link.kind.as_deref() != Some("dummy") && !link.is_ours())
    });
    let leaving = || {
        let default = facts.routes.iter().filter(|route| {
            let to = route.destination;
            route.main
                && to.prefix() == 0
                && to.is_ipv4() == local.is_ipv4()
                && route.kind == RouteKind::Unicast
        });
        facts.link(default.min_by_key(|route| route.metric)?.device?)
    };
    link.or_else(leaving).map(|link| link.mtu)
}

fn sysctls(name: &str, ipv6: bool) -> Vec<Sysctl> {
    let v4 =
        |variable: &str, value| Sysctl { path: format!("ipv4/conf/{name}/{variable}"), value, needed: true };
    let v6 =
        |variable: &str, value| Sysctl { path: format!("ipv6/conf/{name}/{variable}"), value, needed: ipv6 };
    // Loose: a client may have bound an address whose route leads elsewhere.
    let mut all = vec![v4("rp_filter", "2"), v6("accept_ra", "0"), v6("addr_gen_mode", "1")];
    if ipv6 {
        all.push(v6("disable_ipv6", "0"));
    }
    all
}

/// An interface that is set down keeps its addresses, and nothing comes or goes there.
fn tell_underlay(devices: &[Device], facts: &Facts, problems: &mut Problems) {
    for local in devices.iter().map(|device| device.local) {
        let of_local = facts.addresses.iter().filter(|address| address.ip == local);
        let mut links = of_local.filter_map(|address| facts.link(address.link));
        if let Some(link) = links.find(|link| !link.up) {
            problems.push(format!(
                "interface {} with the underlay address {local} is set down: set it up",
                link.name
            ));
        }
    }
}

/// Forwarding is the administrator's to switch on; without it nothing reaches a pod.
fn tell_forwarding(fabric: &Fabric, facts: &Facts, problems: &mut Problems) {
    for (pool, forwards, variable) in [
        (fabric.ipv4_pool.is_some(), facts.forwards_ipv4, "net.ipv4.ip_forward"),
        (fabric.ipv6_pool.is_some(), facts.forwards_ipv6, "net.ipv6.conf.all.forwarding"),
    ] {
        if pool && forwards == Some(false) {
            problems.push(format!("{variable} is 0, so nothing from the tunnel reaches a pod: set it to 1"));
        }
    }
}

/// A network by its first address, as the kernel tells it.
fn network(pool: IpNetwork) -> IpNetwork {
    IpNetwork::new(pool.network(), pool.prefix()).unwrap_or(pool)
}

#[cfg(test)]
mod tests;
