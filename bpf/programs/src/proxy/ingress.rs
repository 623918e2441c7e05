//! What came through the tunnel.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::classifier, programs::TcContext};
use balancing_abi::{
    TCP, is_mapped,
    proxy::{AffinityKey, Connection, ConnectionKey, FrontendKey, counter, direction, kind},
};

use crate::{
    affinity, connections, count, fragments,
    headers::{ACK, FIN, RST, SYN},
    icmp::{self, Message},
    local,
    open::open,
    packet::{Packet, Piece},
    rewrite, services,
};

const WAY: u8 = direction::INGRESS;

#[classifier]
fn ingress(ctx: TcContext) -> i32 {
    count::verdict(&ctx, counter::INGRESS, decide(&ctx))
}

#[inline(always)]
fn decide(ctx: &TcContext) -> Result<(), u32> {
    let packet = Packet::read(ctx)?;
    let own = local::address(packet.v6).ok_or(counter::NOT_FOR_US)?;
    if !local::same(&packet.destination, &own) {
        return Err(counter::NOT_FOR_US);
    }
    if local::same(&packet.source, &own) || is_nobody(&packet.source) {
        return Err(counter::BAD_SOURCE);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if packet.piece == Piece::Later {
        let address = fragments::follow(&packet, WAY, now)?;
        return rewrite::piece(ctx, &packet, WAY, &address);
    }
    if !packet.has_ports() {
        return match icmp::message(&packet) {
            Message::Echo => fragments::lead(&packet, WAY, &own, now),
            Message::Error => icmp::error(ctx, &packet, WAY, now),
            Message::Other => Err(counter::UNSUPPORTED),
        };
    }
    let key = connections::key(&packet, WAY);
    let row = match connections::find(&key, &packet, now) {
        Some(row) => row,
        None => accept(&packet, &key, now)?,
    };
    fragments::lead(&packet, WAY, &row.address, now)?;
    rewrite::packet(ctx, &packet, WAY, &row)
}

/// A connection to a declared port.
#[inline(always)]
fn accept(packet: &Packet, key: &ConnectionKey, now: u64) -> Result<Connection, u32> {
    let frontend = FrontendKey {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        pad: 0,
    };
    let service = services::find(&frontend).ok_or(counter::UNDECLARED_PORT)?;
    if packet.protocol == TCP && packet.flags & (SYN | ACK | RST | FIN) != SYN {
        return Err(counter::NO_CONNECTION);
    }
    // SAFETY: a live array element that does not change.
    let backend = if unsafe { (*service).affinity } == 0 {
        services::draw(service)
    } else {
        let client = AffinityKey {
            client: packet.source,
            port: packet.destination_port,
            protocol: packet.protocol,
            pad: 0,
        };
        affinity::choose(service, &client, now)
    };
    let backend = backend.ok_or(counter::NO_BACKEND)?;
    // SAFETY: as above.
    let (address, port) = unsafe { ((*backend).address, (*backend).port) };
    let other_port = packet.source_port;
    let mut row =
        Connection { seen: now, address, port, other_port, state: 0, kind: kind::PROXIED, pad: 0 };
    open(key, &mut row)?;
    count::add(counter::PROXIED, 1);
    Ok(row)
}

/// Unspecified, loopback and multicast addresses.
#[inline(always)]
fn is_nobody(address: &[u32; 4]) -> bool {
    if is_mapped(address) {
        let first = u32::from_be(address[3]) >> 24;
        return first == 0 || first == 127 || first >= 224;
    }
    let upper = address[0] | address[1] | address[2];
    upper == 0 && u32::from_be(address[3]) <= 1 || u32::from_be(address[0]) >> 24 == 0xff
}
