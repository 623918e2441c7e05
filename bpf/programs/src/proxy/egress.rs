//! What is about to leave through the tunnel.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, macros::classifier, programs::TcContext};
use balancing_abi::{
    TCP,
    proxy::{Connection, counter, direction, state},
};

use crate::{
    clock, connections, count, fragments,
    headers::{ACK, FIN, RST, SYN},
    icmp::{self, Message},
    local,
    open::open,
    packet::{self, Piece},
    rewrite,
    scratch::{self, Scratch, answer, number},
};

const WAY: u8 = direction::EGRESS;

#[classifier]
fn egress(ctx: TcContext) -> i32 {
    count::verdict(&ctx, counter::EGRESS, scratch::with(|room| decide(&ctx, room)))
}

#[inline(always)]
fn decide(ctx: &TcContext, room: &mut Scratch) -> Result<(), u32> {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    answer(packet::read(skb, room))?;
    room.own = local::address(room.packet.v6).ok_or(counter::NO_ADDRESS)?;
    room.now = clock::now();
    if room.packet.piece == Piece::Later {
        return answer(rewrite::piece(skb, room, WAY));
    }
    let is_own = local::same(&room.packet.source, &room.own);
    if !room.packet.has_ports() {
        return match icmp::message(&room.packet) {
            Message::Echo if is_own => {
                room.row.address = room.own;
                answer(fragments::lead(room, WAY))
            }
            Message::Error => answer(icmp::error(skb, room, WAY)),
            _ => Err(counter::UNSUPPORTED),
        };
    }
    if connections::find(room, WAY) == 0 {
        if is_own && room.packet.protocol == TCP && room.packet.flags & RST != 0 {
            return Ok(());
        }
        answer(start(room, is_own))?;
    }
    answer(fragments::lead(room, WAY))?;
    answer(rewrite::packet(skb, room, WAY))
}

/// A connection that somebody here starts: it bears the own address. The host's own ones may be older than the program.
#[inline(never)]
fn start(room: &mut Scratch, is_own: bool) -> u32 {
    let packet = &room.packet;
    let old = packet.protocol == TCP && packet.flags & (SYN | ACK | RST | FIN) != SYN;
    if old && !is_own {
        return counter::NO_CONNECTION;
    }
    room.row = Connection {
        seen: room.now,
        address: room.own,
        port: packet.source_port,
        other_port: packet.destination_port,
        state: if old { state::REPLIED } else { 0 },
        backend: 0,
        generation: 0,
    };
    let opened = number(open(room));
    if opened == 0 {
        count::add(counter::STARTED, 1);
    }
    opened
}
