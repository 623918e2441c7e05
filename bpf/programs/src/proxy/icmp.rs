//! ICMP: echo passes, and errors pass that tell of a packet of a known connection.
//!
//! An error carries the beginning of a packet as it was on its side of the proxy. It is translated as the packet of the other direction would be:
//! its own address, and inside the address and ports that the connection replaces.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    programs::TcContext,
};
use balancing_abi::{
    TCP, UDP, mapped,
    proxy::{Connection, ConnectionKey, counter, direction},
};

use crate::{
    connections::look,
    headers::{ETHERNET, Ipv4, Ipv6},
    packet::{Packet, Piece},
    rewrite::{address, difference, done, port},
    scratch::{self, Scratch, number},
};

/// What a message is to the proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Echo,
    Error,
    Other,
}

/// The packet inside of an error.
struct Inner {
    /// Where its header begins.
    start: u32,
    /// Where its ports are.
    ports: u32,
    source: [u32; 4],
    destination: [u32; 4],
    source_port: u16,
    destination_port: u16,
    protocol: u8,
}

/// The kind of a message.
#[inline(always)]
pub(crate) fn message(packet: &Packet) -> Message {
    match (packet.v6, packet.message) {
        (false, 0 | 8) | (true, 128 | 129) => Message::Echo,
        (false, 3 | 11 | 12) | (true, 1..=4) => Message::Error,
        _ => Message::Other,
    }
}

/// Translates an error about a packet that went the other way.
#[inline(never)]
pub(crate) fn error(skb: *mut __sk_buff, room: &mut Scratch, way: u8) -> u32 {
    number(try_error(&scratch::context(skb), room, way))
}

#[inline(always)]
fn try_error(ctx: &TcContext, room: &mut Scratch, way: u8) -> Result<(), u32> {
    if room.packet.piece != Piece::Whole {
        return Err(counter::UNRELATED_ICMP);
    }
    let inner = if room.packet.v6 { ipv6(ctx, &room.packet) } else { ipv4(ctx, &room.packet) };
    let inner = inner.ok_or(counter::UNRELATED_ICMP)?;
    // Its answer would come this way.
    room.key = ConnectionKey {
        source: inner.destination,
        destination: inner.source,
        source_port: inner.destination_port,
        destination_port: inner.source_port,
        protocol: inner.protocol,
        direction: way,
        pad: 0,
    };
    if look(room) == 0 {
        return Err(counter::UNRELATED_ICMP);
    }
    let check = (room.packet.transport + 2) as usize;
    outside(ctx, &room.packet, way, &room.row, check)?;
    inside(ctx, &room.packet, way, &room.row, (&inner, check))
}

#[inline(always)]
fn outside(ctx: &TcContext, packet: &Packet, way: u8, row: &Connection, check: usize) -> Result<(), u32> {
    let source = way == direction::EGRESS;
    let from = if source { &packet.source } else { &packet.destination };
    let change = difference(packet.v6, from, &row.address);
    if packet.v6 {
        done(ctx.l4_csum_replace(check, 0, change, u64::from(BPF_F_PSEUDO_HDR)))?;
    }
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    address(ctx, ETHERNET, packet.v6, source, (&row.address, change), flags)
}

/// The addresses inside are covered by the message's checksum: one of IPv4 together with its header's checksum, which leaves the sum as
/// it was.
#[inline(always)]
fn inside(
    ctx: &TcContext,
    packet: &Packet,
    way: u8,
    row: &Connection,
    (inner, check): (&Inner, usize),
) -> Result<(), u32> {
    let ingress = way == direction::INGRESS;
    let from = if ingress { &inner.source } else { &inner.destination };
    let change = difference(packet.v6, from, &row.address);
    if packet.v6 {
        done(ctx.l4_csum_replace(check, 0, change, 0))?;
    }
    address(ctx, inner.start, packet.v6, ingress, (&row.address, change), 0)?;
    let (source_port, destination_port) =
        if ingress { (row.port, row.other_port) } else { (row.other_port, row.port) };
    port(ctx, inner.ports, check, (inner.source_port, source_port), 0)?;
    port(ctx, inner.ports + 2, check, (inner.destination_port, destination_port), 0)
}

#[inline(always)]
fn ipv4(ctx: &TcContext, packet: &Packet) -> Option<Inner> {
    let start = packet.transport + packet.header;
    let header = ctx.load::<Ipv4>(start as usize).ok()?;
    let size = u32::from(header.version & 15) * 4;
    let later = u16::from_be(header.fragment) & Ipv4::OFFSET != 0;
    if header.version >> 4 != 4 || size < Ipv4::SIZE || later {
        return None;
    }
    let addresses = (mapped(header.source), mapped(header.destination));
    with_ports(ctx, packet, header.protocol, (start, size), addresses)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, packet: &Packet) -> Option<Inner> {
    let start = packet.transport + packet.header;
    let header = ctx.load::<Ipv6>(start as usize).ok()?;
    if header.version >> 4 != 6 {
        return None;
    }
    with_ports(ctx, packet, header.next, (start, Ipv6::SIZE), (header.source, header.destination))
}

/// Reads the ports, which have to be within the message.
#[inline(always)]
fn with_ports(
    ctx: &TcContext,
    packet: &Packet,
    protocol: u8,
    (start, size): (u32, u32),
    (source, destination): ([u32; 4], [u32; 4]),
) -> Option<Inner> {
    let ports = start + size;
    if protocol != TCP && protocol != UDP || packet.payload < packet.header + size + 8 {
        return None;
    }
    let [source_port, destination_port] = ctx.load::<[u16; 2]>(ports as usize).ok()?;
    Some(Inner { start, ports, source, destination, source_port, destination_port, protocol })
}
