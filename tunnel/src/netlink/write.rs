//! Steps and entries as messages to the kernel.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType},
};

use super::requests::{Mode, Write};
use crate::{
    Mac,
    diff::{Entry, LinkChange, ROUTE_PROTOCOL},
    plan::{Destination, Device, Path},
};

/// Hops of the outer packet, as of any other of the host.
const TTL: u8 = 64;

/// Makes a device. Its alias cannot be given at once.
pub(super) fn create(device: &Device) -> Write {
    let settings = vec![
        InfoVxlan::Id(device.vni),
        InfoVxlan::Port(device.port),
        local(device.local),
        InfoVxlan::Learning(false),
        InfoVxlan::Ttl(TTL),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(device.name.to_owned()),
        LinkAttribute::Address(device.mac.0.to_vec()),
        LinkAttribute::Mtu(device.mtu),
        vxlan(settings),
    ];
    Write { message: RouteNetlinkMessage::NewLink(message), mode: Mode::Create }
}

/// Changes a device, in the order in which it must happen, each with its words.
pub(super) fn change(change: &LinkChange) -> Vec<(&'static str, Write)> {
    let message = || {
        let mut message = LinkMessage::default();
        message.header.index = change.index;
        message
    };
    let set = |message| Write { message: RouteNetlinkMessage::SetLink(message), mode: Mode::Change };
    let mut writes = Vec::new();
    if change.name.is_some() {
        let mut down = message();
        down.header.change_mask = LinkFlags::Up;
        writes.push(("set down", set(down)));
    }
    let mut rest = message();
    rest.attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.to_owned())));
    rest.attributes.extend(change.alias.clone().map(LinkAttribute::IfAlias));
    rest.attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    rest.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    if !rest.attributes.is_empty() {
        writes.push(("change", set(rest)));
    }
    if let Some(ip) = change.local {
        let mut settings = message();
        settings.attributes.push(vxlan(vec![local(ip)]));
        let message = RouteNetlinkMessage::NewLink(settings);
        writes.push(("change the source address of", Write { message, mode: Mode::Change }));
    }
    if change.up {
        let mut up = message();
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        writes.push(("set up", set(up)));
    }
    writes
}

pub(super) fn delete(device: u32) -> Write {
    let mut message = LinkMessage::default();
    message.header.index = device;
    Write { message: RouteNetlinkMessage::DelLink(message), mode: Mode::Change }
}

/// Makes or replaces an entry of a device.
pub(super) fn set(device: u32, entry: &Entry) -> Write {
    let message = match *entry {
        Entry::Address(ip) => RouteNetlinkMessage::NewAddress(address(device, ip)),
        Entry::Route(to, path) => RouteNetlinkMessage::NewRoute(route(device, to, Some(path))),
        Entry::Neighbour(ip, mac) => RouteNetlinkMessage::NewNeighbour(neighbour(device, ip, Some(mac))),
        Entry::Forwarding(mac, to) => RouteNetlinkMessage::NewNeighbour(forwarding(device, mac, Some(to))),
    };
    Write { message, mode: Mode::Set }
}

/// Deletes an entry of a device, whatever its value is by now.
pub(super) fn unset(device: u32, entry: &Entry) -> Write {
    let message = match *entry {
        Entry::Address(ip) => RouteNetlinkMessage::DelAddress(address(device, ip)),
        Entry::Route(to, _) => RouteNetlinkMessage::DelRoute(route(device, to, None)),
        Entry::Neighbour(ip, _) => RouteNetlinkMessage::DelNeighbour(neighbour(device, ip, None)),
        Entry::Forwarding(mac, _) => RouteNetlinkMessage::DelNeighbour(forwarding(device, mac, None)),
    };
    Write { message, mode: Mode::Change }
}

fn vxlan(settings: Vec<InfoVxlan>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(settings))])
}

fn local(ip: IpAddr) -> InfoVxlan {
    match ip {
        IpAddr::V4(ip) => InfoVxlan::Local(ip),
        IpAddr::V6(ip) => InfoVxlan::Local6(ip),
    }
}

fn address(device: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = if ip.is_ipv4() { 32 } else { 128 };
    message.header.index = device;
    message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip)];
    if ip.is_ipv6() {
        // Nobody else has it, so it is usable at once; the route to it is ours.
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

/// Without a path: for deletion, whatever source and MTU it has.
fn route(device: u32, to: IpNetwork, path: Option<Path>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.ip());
    message.header.destination_prefix_length = to.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.header.kind = RouteType::Unicast;
    if to.is_ipv4() {
        message.header.scope = if path.is_some() { RouteScope::Link } else { RouteScope::NoWhere };
    }
    message.attributes = vec![RouteAttribute::Destination(to.ip().into()), RouteAttribute::Oif(device)];
    if let Some(Path { source, mtu }) = path {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
        message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    }
    message
}

fn neighbour(device: u32, ip: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = device;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

/// Without a destination: for deletion, wherever it leads. A deletion that names a destination removes only that.
fn forwarding(device: u32, mac: Mac, to: Option<Destination>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    if let Some(Destination { ip, port }) = to {
        message.attributes.push(NeighbourAttribute::Destination(ip.into()));
        message.attributes.extend(port.map(NeighbourAttribute::Port));
    }
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
