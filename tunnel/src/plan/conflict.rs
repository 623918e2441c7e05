//! What keeps the fabric off this host: found before a device is made, and told with who is in the way.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::{
    Fabric, Facts, Member,
    facts::{DEVICE_IPV4, DEVICE_IPV6, Link, RouteKind},
};

/// Ports of other overlays, which hypervisors and Calico take packets from.
const FORBIDDEN_PORTS: [u16; 2] = [4789, 8472];
/// A route as wide as this is a default route in two halves.
const AS_DEFAULT: u8 = 1;

/// Why there is no plan.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Conflict {
    /// A port that never works everywhere.
    #[error(
        "spec.vxlan.port {0} belongs to other overlays and is dropped by some hypervisors: create a TunnelFabric with another \
         and delete this one"
    )]
    ForbiddenPort(u16),
    /// An identifier of more than 24 bits.
    #[error(
        "spec.vxlan.vni {0} has more than 24 bits: create a TunnelFabric with one below 16777216 and delete this one"
    )]
    BadVni(u32),
    /// The member has no underlay address.
    #[error("member {0} has no underlay address: name the underlay by spec.underlay of the TunnelFabric")]
    NoUnderlay(String),
    /// The member has no tunnel address of a pool.
    #[error("member {0} has no tunnel address of the fabric's pools: its claim is still to be made")]
    NoAddress(String),
    /// A device has our name but was not made by us.
    #[error("device {0} is not ours (it has no alias balancing:NAME): remove it or give it another name")]
    ForeignDevice(String),
    /// Another device takes the packets of our identifier.
    #[error(
        "device {by} has VNI {vni} on port {port} already: give its overlay another VNI or port, or create a TunnelFabric with \
         another spec.vxlan.vni or port and delete this one"
    )]
    VniTaken {
        /// Our identifier.
        vni: u32,
        /// Our port.
        port: u16,
        /// The other device.
        by: String,
    },
    /// Another device takes every packet of our port.
    #[error(
        "device {by} takes every VNI of port {port} (collect metadata), as Cilium's does: give its overlay another port, or \
         create a TunnelFabric with another spec.vxlan.port and delete this one"
    )]
    CollectMetadata {
        /// Our port.
        port: u16,
        /// The other device.
        by: String,
    },
    /// Another device uses our port in a way that ours cannot share.
    #[error(
        "device {by} uses port {port} with {flags}, which the kernel lets no other share: give its overlay another port, or create a \
         TunnelFabric with another spec.vxlan.port and delete this one"
    )]
    OtherFlags {
        /// Our port.
        port: u16,
        /// The other device.
        by: String,
        /// Its flags.
        flags: String,
    },
    /// Something on this host is reached by addresses of the pool.
    #[error("pool {pool} overlaps {with}: choose another pool")]
    PoolOverlap {
        /// Our pool.
        pool: IpNetwork,
        /// What it overlaps.
        with: String,
    },
}

/// The first conflict, if there is one.
pub(super) fn find(fabric: &Fabric, own: &Member, facts: &Facts) -> Result<(), Conflict> {
    if FORBIDDEN_PORTS.contains(&fabric.port) || fabric.port == 0 {
        return Err(Conflict::ForbiddenPort(fabric.port));
    }
    if fabric.vni >= 1 << 24 {
        return Err(Conflict::BadVni(fabric.vni));
    }
    if own.underlay.is_empty() {
        return Err(Conflict::NoUnderlay(own.name.clone()));
    }
    if !own.addresses.iter().any(|address| fabric.pool_for(address).is_some()) {
        return Err(Conflict::NoAddress(own.name.clone()));
    }
    let others = || {
        facts
            .links
            .iter()
            .filter(|link| !link.is_ours() && !link.is_half_made(fabric.vni, fabric.port, own.mac))
    };
    if let Some(link) = others().find(|link| [DEVICE_IPV4, DEVICE_IPV6].contains(&link.name.as_str())) {
        return Err(Conflict::ForeignDevice(link.name.clone()));
    }
    others().try_for_each(|link| shares_port(fabric, link))?;
    fabric.pools().try_for_each(|pool| free_pool(pool, facts))
}

fn shares_port(fabric: &Fabric, link: &Link) -> Result<(), Conflict> {
    let Some(vxlan) = link.vxlan.as_ref().filter(|vxlan| vxlan.port == fabric.port) else { return Ok(()) };
    let (port, by) = (fabric.port, link.name.clone());
    if vxlan.collect_metadata {
        return Err(Conflict::CollectMetadata { port, by });
    }
    if !vxlan.flags.is_empty() {
        return Err(Conflict::OtherFlags { port, by, flags: vxlan.flags.join(", ") });
    }
    if vxlan.vni == fabric.vni {
        return Err(Conflict::VniTaken { vni: fabric.vni, port, by });
    }
    Ok(())
}

fn free_pool(pool: IpNetwork, facts: &Facts) -> Result<(), Conflict> {
    let overlap = |with| Err(Conflict::PoolOverlap { pool, with });
    for address in facts.addresses.iter().filter(|address| !facts.is_ours(address.link)) {
        let network = IpNetwork::new(address.ip, address.prefix).unwrap_or(IpNetwork::from(address.ip));
        if overlaps(pool, network) {
            return overlap(format!("address {network} of {}", facts.name(address.link)));
        }
    }
    for route in &facts.routes {
        // Routes that only refuse hold no network: a pool inside 10.0.0.0/8 is free where that is a blackhole.
        let leads = route.kind != RouteKind::Other && route.destination.prefix() > AS_DEFAULT;
        let foreign = route.device.is_none_or(|device| !facts.is_ours(device));
        if leads && foreign && overlaps(pool, route.destination) {
            let way = match (route.device, route.gateway) {
                (Some(device), _) => format!(" over {}", facts.name(device)),
                (None, Some(gateway)) => format!(" by {gateway}"),
                (None, None) => String::new(),
            };
            return overlap(format!("route {}{way}", route.destination));
        }
    }
    Ok(())
}

fn overlaps(a: IpNetwork, b: IpNetwork) -> bool {
    let contains =
        |outer: IpNetwork, inner: IpAddr| outer.is_ipv4() == inner.is_ipv4() && outer.contains(inner);
    contains(a, b.network()) || contains(b, a.network())
}
