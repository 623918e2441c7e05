//! What came through the tunnel.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, macros::classifier, programs::TcContext};
use balancing_abi::{
    TCP, is_mapped,
    proxy::{AffinityKey, Connection, FrontendKey, counter, direction},
};

use crate::{
    affinity, clock, connections, count, fragments,
    headers::{ACK, FIN, RST, SYN},
    icmp::{self, Message},
    local,
    open::open,
    packet::{self, Piece},
    rewrite,
    scratch::{self, Scratch, answer, number},
    services,
};

const WAY: u8 = direction::INGRESS;

#[classifier]
fn ingress(ctx: TcContext) -> i32 {
    count::verdict(&ctx, counter::INGRESS, scratch::with(|room| decide(&ctx, room)))
}

#[inline(always)]
fn decide(ctx: &TcContext, room: &mut Scratch) -> Result<(), u32> {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    answer(packet::read(skb, room))?;
    room.own = local::address(room.packet.v6).ok_or(counter::NOT_FOR_US)?;
    if !local::same(&room.packet.destination, &room.own) {
        return Err(counter::NOT_FOR_US);
    }
    if local::same(&room.packet.source, &room.own) || is_nobody(&room.packet.source) {
        return Err(counter::BAD_SOURCE);
    }
    room.now = clock::now();
    if room.packet.piece == Piece::Later {
        return answer(rewrite::piece(skb, room, WAY));
    }
    if !room.packet.has_ports() {
        return match icmp::message(&room.packet) {
            Message::Echo => {
                room.row.address = room.own;
                answer(fragments::lead(room, WAY))
            }
            Message::Error => answer(icmp::error(skb, room, WAY)),
            Message::Other => Err(counter::UNSUPPORTED),
        };
    }
    if connections::find(room, WAY) == 0 {
        answer(accept(room))?;
    }
    answer(fragments::lead(room, WAY))?;
    answer(rewrite::packet(skb, room, WAY))
}

/// A connection to a declared port.
#[inline(never)]
fn accept(room: &mut Scratch) -> u32 {
    number(try_accept(room))
}

#[inline(always)]
fn try_accept(room: &mut Scratch) -> Result<(), u32> {
    let packet = &room.packet;
    let (port, protocol) = (packet.destination_port, packet.protocol);
    let frontend = FrontendKey { address: packet.destination, port, protocol, pad: 0 };
    // Before the service is looked for: a backend that leaves later is of a later generation.
    let generation = local::generation();
    let service = services::find(&frontend).ok_or(counter::UNDECLARED_PORT)?;
    if protocol == TCP && packet.flags & (SYN | ACK | RST | FIN) != SYN {
        return Err(counter::NO_CONNECTION);
    }
    // SAFETY: a live array element that does not change.
    let backend = if unsafe { (*service).affinity } == 0 {
        services::draw(service)
    } else {
        let client = AffinityKey { client: packet.source, port, protocol, pad: 0 };
        affinity::choose(service, &client, room.now)
    };
    let backend = backend.ok_or(counter::NO_BACKEND)?;
    // SAFETY: as above.
    let (address, port, backend) = unsafe { ((*backend).address, (*backend).port, (*backend).id) };
    let (seen, other_port) = (room.now, room.packet.source_port);
    room.row = Connection { seen, address, port, other_port, state: 0, backend, generation };
    open(room)?;
    count::add(counter::PROXIED, 1);
    Ok(())
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
