//! The kernel's messages as facts, and as what a device of ours has.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType},
};

use super::{Error, requests::Requests};
use crate::{
    Mac,
    diff::{Have, ROUTE_PROTOCOL},
    facts::{Address, Facts, Link, Route, RouteKind, Scope, Vxlan},
    plan::{Destination, Path},
};

/// The tables `main` and `local`.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
const LOCAL: u32 = 255;
/// `NUD_PERMANENT`. Others set further bits beside it: `bridge fdb` does.
const PERMANENT: u16 = 0x80;

/// All that the host has.
pub(super) async fn facts(requests: &Requests) -> Result<Facts, Error> {
    Ok(Facts {
        links: links(requests).await?,
        addresses: addresses(requests).await?,
        routes: routes(requests).await?,
        forwards_ipv4: switch("ipv4/ip_forward"),
        forwards_ipv6: switch("ipv6/conf/all/forwarding"),
    })
}

fn switch(name: &str) -> Option<bool> {
    fs::read_to_string(format!("/proc/sys/net/{name}")).ok().map(|value| value.trim() != "0")
}

pub(super) async fn links(requests: &Requests) -> Result<Vec<Link>, Error> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let find = |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link_of(link)),
        _ => None,
    };
    requests.dump("links", RouteNetlinkMessage::GetLink(message), find).await
}

pub(super) async fn addresses(requests: &Requests) -> Result<Vec<Address>, Error> {
    let find = |message| match message {
        RouteNetlinkMessage::NewAddress(address) => address_of(&address),
        _ => None,
    };
    requests.dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()), find).await
}

pub(super) async fn routes(requests: &Requests) -> Result<Vec<Route>, Error> {
    let find = |message| match message {
        RouteNetlinkMessage::NewRoute(route) => route_of(&route),
        _ => None,
    };
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        routes.extend(requests.dump("routes", RouteNetlinkMessage::GetRoute(message), find).await?);
    }
    Ok(routes)
}

/// What a device of ours has; addresses and routes come out of the host's.
pub(super) async fn have(
    requests: &Requests,
    device: u32,
    addresses: &[Address],
    routes: &[Route],
) -> Result<Have, Error> {
    let single = |address: &&Address| {
        address.link == device
            && address.scope == Scope::Global
            && address.prefix == if address.ip.is_ipv4() { 32 } else { 128 }
    };
    let ours =
        |route: &&Route| route.device == Some(device) && route.main && route.protocol == ROUTE_PROTOCOL;
    let path = |route: &Route| {
        let source = route.source.unwrap_or(unspecified(route.destination.is_ipv4()));
        (route.destination, Path { source, mtu: route.mtu })
    };
    Ok(Have {
        addresses: addresses.iter().filter(single).map(|address| address.ip).collect(),
        routes: routes.iter().filter(ours).map(path).collect(),
        neighbours: neighbours(requests, device).await?,
        forwarding: forwarding(requests, device).await?,
    })
}

async fn neighbours(requests: &Requests, device: u32) -> Result<BTreeMap<IpAddr, Mac>, Error> {
    let mut message = NeighbourMessage::default();
    message.attributes.push(NeighbourAttribute::IfIndex(device));
    let entry = |message| {
        let message = neighbour(message)?;
        let mac = permanent(&message, device)?;
        message.attributes.into_iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((ip.into(), mac)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((ip.into(), mac)),
            _ => None,
        })
    };
    let found = requests.dump("neighbours", RouteNetlinkMessage::GetNeighbour(message), entry).await?;
    Ok(found.into_iter().collect())
}

async fn forwarding(requests: &Requests, device: u32) -> Result<BTreeMap<Mac, Destination>, Error> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    let entry = |message| {
        let message = neighbour(message)?;
        let mac = permanent(&message, device)?;
        if !message.header.flags.contains(NeighbourFlags::Own) {
            return None;
        }
        let mut to = Destination { ip: unspecified(true), port: None };
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                    to.ip = ip_of(&bytes).unwrap_or(to.ip);
                }
                NeighbourAttribute::Port(port) => to.port = Some(port),
                _ => {}
            }
        }
        Some((mac, to))
    };
    let found =
        requests.dump("forwarding entries", RouteNetlinkMessage::GetNeighbour(message), entry).await?;
    Ok(found.into_iter().collect())
}

fn neighbour(message: RouteNetlinkMessage) -> Option<NeighbourMessage> {
    match message {
        RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
        _ => None,
    }
}

/// The Ethernet address of a permanent entry of a device: others are not ours.
fn permanent(message: &NeighbourMessage, device: u32) -> Option<Mac> {
    let header = &message.header;
    if header.ifindex != device
        || u16::from(header.state) & PERMANENT == 0
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac_of(bytes),
        _ => None,
    })
}

pub(super) fn link_of(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(bytes) => link.mac = mac_of(&bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Vxlan) => link.kind = Some("vxlan".to_owned()),
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(settings)) => link.vxlan = Some(vxlan_of(settings)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn vxlan_of(settings: Vec<InfoVxlan>) -> Vxlan {
    let mut vxlan = Vxlan::default();
    let mut flag = |name: &str| vxlan.flags.push(name.to_owned());
    for setting in settings {
        match setting {
            InfoVxlan::Id(vni) => vxlan.vni = vni,
            InfoVxlan::Port(port) => vxlan.port = port,
            InfoVxlan::Local(ip) => vxlan.local = Some(ip.into()),
            InfoVxlan::Local6(ip) => vxlan.local = Some(ip.into()),
            InfoVxlan::CollectMetadata(on) => vxlan.collect_metadata = on,
            InfoVxlan::Learning(on) => vxlan.learning = on,
            InfoVxlan::Link(index) => vxlan.bound_to = index,
            InfoVxlan::Gbp => flag("gbp"),
            InfoVxlan::Gpe => flag("gpe"),
            InfoVxlan::UDPZeroCsumRX(true) => flag("udp6zerocsumrx"),
            InfoVxlan::RemCsumRX(true) => flag("remcsumrx"),
            InfoVxlan::RemCsumNoPartial => flag("remcsum-nopartial"),
            InfoVxlan::Vnifilter(true) => flag("vnifilter"),
            _ => {}
        }
    }
    vxlan
}

fn address_of(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let (mut address, mut local, mut flags) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Flags(all) => flags = Some(*all),
            _ => {}
        }
    }
    // On a point-to-point link the address is the peer's and `local` ours.
    let ip = local.or(address)?;
    let flags = flags.unwrap_or_else(|| {
        AddressFlags::from_bits_retain(u32::from(AddressHeaderFlags::bits(&header.flags)))
    });
    let mut passing = AddressFlags::Dadfailed | AddressFlags::Deprecated | AddressFlags::Tentative;
    if ip.is_ipv6() {
        // The bit says "temporary" there; of IPv4 it says that another address of the network came first.
        passing |= AddressFlags::Secondary;
    }
    Some(Address {
        link: header.index,
        ip,
        prefix: header.prefix_len,
        scope: match header.scope {
            AddressScope::Universe => Scope::Global,
            AddressScope::Link => Scope::Link,
            AddressScope::Host => Scope::Host,
            other => Scope::Other(u8::from(other)),
        },
        lasting: !flags.intersects(passing),
    })
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let ipv4 = match header.address_family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let mut destination = unspecified(ipv4);
    let (mut gateway, mut device, mut source, mut mtu, mut metric) = (None, None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(to) => destination = route_ip(to)?,
            RouteAttribute::Gateway(by) => gateway = route_ip(by),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::PrefSource(from) => source = route_ip(from),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if ![MAIN, LOCAL].contains(&table) {
        return None;
    }
    Some(Route {
        destination: IpNetwork::new(destination, header.destination_prefix_length).ok()?,
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Local => RouteKind::Local,
            _ => RouteKind::Other,
        },
        gateway,
        device,
        source,
        mtu,
        metric,
        protocol: header.protocol.into(),
        main: table == MAIN,
    })
}

fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    ipv4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv6Addr::from(bytes)))).ok()
}

fn unspecified(ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn mac_of(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}
