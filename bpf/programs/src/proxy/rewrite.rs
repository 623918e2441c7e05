//! Changing addresses and ports, with the checksums.
//!
//! The helpers know whether a checksum is whole, or whether hardware is still to complete it, or has summed the packet up
//! already; so every change of bytes goes through them. An address of IPv4 changes header checksum and transport checksum and so
//! leaves the packet's sum as it was but for one of them; one of IPv6 has only the transport checksum, so the bytes themselves
//! have to be accounted for (`BPF_F_RECOMPUTE_CSUM`).

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::bpf_csum_diff,
    programs::TcContext,
};
use balancing_abi::{
    UDP,
    proxy::{Connection, counter, direction},
};

use crate::{
    fragments,
    headers::{ETHERNET, Ipv4, Ipv6, Tcp, Udp},
    local::same,
    packet::Packet,
    scratch::{self, Scratch, number},
};

/// The kernel's answer as a reason.
#[inline(always)]
pub(crate) fn done<E>(result: Result<(), E>) -> Result<(), u32> {
    result.map_err(|_| counter::KERNEL)
}

/// What a checksum changes by when one address takes the place of another.
#[inline(always)]
pub(crate) fn difference(v6: bool, from: &[u32; 4], to: &[u32; 4]) -> u64 {
    let (skip, size) = if v6 { (0, 16) } else { (3, 4) };
    // SAFETY: both are of the announced size from the word on; the helper only reads.
    let sum = unsafe {
        bpf_csum_diff(from.as_ptr().add(skip).cast_mut(), size, to.as_ptr().add(skip).cast_mut(), size, 0)
    };
    // 32 bits of a ones' complement sum.
    u64::from(sum as u32)
}

/// Puts an address into a header of IP and mends the checksum of that header, if it has one.
#[inline(always)]
pub(crate) fn address(
    ctx: &TcContext,
    header: u32,
    v6: bool,
    source: bool,
    (to, difference): (&[u32; 4], u64),
    flags: u64,
) -> Result<(), u32> {
    if v6 {
        let offset = header + if source { Ipv6::SOURCE } else { Ipv6::DESTINATION };
        return done(ctx.store(offset as usize, to, flags));
    }
    let offset = header + if source { Ipv4::SOURCE } else { Ipv4::DESTINATION };
    done(ctx.l3_csum_replace((header + Ipv4::CHECK) as usize, 0, difference, 0))?;
    done(ctx.store(offset as usize, &to[3], 0))
}

/// Changes a whole packet or a first piece as the row of its connection says.
#[inline(never)]
pub(crate) fn packet(skb: *mut __sk_buff, room: &mut Scratch, way: u8) -> u32 {
    number(whole(&scratch::context(skb), &room.packet, way, &room.row))
}

#[inline(always)]
fn whole(ctx: &TcContext, packet: &Packet, way: u8, row: &Connection) -> Result<(), u32> {
    let source = way == direction::EGRESS;
    let (check, mangled) = match packet.protocol {
        UDP => (Udp::CHECK, u64::from(BPF_F_MARK_MANGLED_0)),
        _ => (Tcp::CHECK, 0),
    };
    let check = (packet.transport + check) as usize;
    let from = if source { &packet.source } else { &packet.destination };
    if !same(from, &row.address) {
        let difference = difference(packet.v6, from, &row.address);
        done(ctx.l4_csum_replace(check, 0, difference, u64::from(BPF_F_PSEUDO_HDR) | mangled))?;
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        address(ctx, ETHERNET, packet.v6, source, (&row.address, difference), flags)?;
    }
    let (source_port, destination_port) =
        if source { (row.port, row.other_port) } else { (row.other_port, row.port) };
    let (at, flags) = (packet.transport, mangled);
    port(ctx, at, check, (packet.source_port, source_port), flags)?;
    port(ctx, at + 2, check, (packet.destination_port, destination_port), flags)
}

/// Changes a port and a checksum that covers it.
#[inline(always)]
pub(crate) fn port(
    ctx: &TcContext,
    offset: u32,
    check: usize,
    (from, to): (u16, u16),
    flags: u64,
) -> Result<(), u32> {
    if from == to {
        return Ok(());
    }
    done(ctx.l4_csum_replace(check, u64::from(from), u64::from(to), 2 | flags))?;
    done(ctx.store(offset as usize, &to, 0))
}

/// Changes a later piece: the checksum of the whole was mended in the first one.
#[inline(never)]
pub(crate) fn piece(skb: *mut __sk_buff, room: &mut Scratch, way: u8) -> u32 {
    let followed = fragments::follow(room, way);
    number(followed.and_then(|()| later(&scratch::context(skb), &room.packet, way, &room.row.address)))
}

#[inline(always)]
fn later(ctx: &TcContext, packet: &Packet, way: u8, to: &[u32; 4]) -> Result<(), u32> {
    let source = way == direction::EGRESS;
    let from = if source { &packet.source } else { &packet.destination };
    if same(from, to) {
        return Ok(());
    }
    let difference = difference(packet.v6, from, to);
    address(ctx, ETHERNET, packet.v6, source, (to, difference), u64::from(BPF_F_RECOMPUTE_CSUM))
}
