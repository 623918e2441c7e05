//! What is about to leave through the tunnel.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::classifier, programs::TcContext};
use balancing_abi::{
    TCP,
    proxy::{Connection, ConnectionKey, counter, direction, kind, state},
};

use crate::{
    connections, count, fragments,
    headers::{ACK, FIN, RST, SYN},
    icmp::{self, Message},
    local,
    open::open,
    packet::{Packet, Piece},
    rewrite,
};

const WAY: u8 = direction::EGRESS;

#[classifier]
fn egress(ctx: TcContext) -> i32 {
    count::verdict(&ctx, counter::EGRESS, decide(&ctx))
}

#[inline(always)]
fn decide(ctx: &TcContext) -> Result<(), u32> {
    let packet = Packet::read(ctx)?;
    let own = local::address(packet.v6).ok_or(counter::NO_ADDRESS)?;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if packet.piece == Piece::Later {
        let address = fragments::follow(&packet, WAY, now)?;
        return rewrite::piece(ctx, &packet, WAY, &address);
    }
    let is_own = local::same(&packet.source, &own);
    if !packet.has_ports() {
        return match icmp::message(&packet) {
            Message::Echo if is_own => fragments::lead(&packet, WAY, &own, now),
            Message::Error => icmp::error(ctx, &packet, WAY, now),
            _ => Err(counter::UNSUPPORTED),
        };
    }
    let key = connections::key(&packet, WAY);
    let row = match connections::find(&key, &packet, now) {
        Some(row) => row,
        None if is_own && packet.protocol == TCP && packet.flags & RST != 0 => return Ok(()),
        None => start(&packet, &key, (&own, is_own), now)?,
    };
    fragments::lead(&packet, WAY, &row.address, now)?;
    rewrite::packet(ctx, &packet, WAY, &row)
}

/// A connection that somebody here starts: it bears the own address. The host's own ones may be older than the program.
#[inline(always)]
fn start(
    packet: &Packet,
    key: &ConnectionKey,
    (own, is_own): (&[u32; 4], bool),
    now: u64,
) -> Result<Connection, u32> {
    let old = packet.protocol == TCP && packet.flags & (SYN | ACK | RST | FIN) != SYN;
    if old && !is_own {
        return Err(counter::NO_CONNECTION);
    }
    let mut row = Connection {
        seen: now,
        address: *own,
        port: packet.source_port,
        other_port: packet.destination_port,
        state: if old { state::REPLIED } else { 0 },
        kind: kind::STARTED,
        pad: 0,
    };
    open(key, &mut row)?;
    count::add(counter::STARTED, 1);
    Ok(row)
}
