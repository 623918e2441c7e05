//! New connections: the row of the answers first, then the row of the packet.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use balancing_abi::proxy::{Connection, counter, direction};

use crate::{
    connections::{agree, insert, read, remove},
    scratch::{Scratch, answer},
    tables::connections,
};

/// Ports that are tried: the packet's own first.
const TRIES: u32 = 8;

const MADE: u32 = 0;
/// It was there, as it should be.
const OURS: u32 = 1;
/// Another connection has it.
const TAKEN: u32 = 2;
const FULL: u32 = 3;

/// Makes both rows of a connection: that of the packet, and that of the answers. The port of the end that may get another one is
/// changed where it has to be. Whoever comes second takes what is there.
#[inline(always)]
pub(crate) fn open(room: &mut Scratch) -> Result<(), u32> {
    let mut claimed = TAKEN;
    for attempt in 0..TRIES {
        if attempt != 0 {
            set_port(room, random_port());
        }
        room.other_key = room.key.reverse(&room.row);
        room.other_row = room.key.reverse_row(&room.row);
        claimed = claim(room);
        if claimed != TAKEN {
            break;
        }
    }
    match claimed {
        TAKEN => return Err(counter::NO_PORT),
        FULL => return Err(counter::TABLE_FULL),
        _ => {}
    }
    if insert(&room.key, &room.row) != 0 {
        return Ok(());
    }
    answer(yield_to_winner(room, u32::from(claimed == MADE)))
}

/// Another CPU has made the row of the packet: it counts, unless it is gone already.
#[inline(never)]
fn yield_to_winner(room: &mut Scratch, made: u32) -> u32 {
    if let Some(pointer) = connections.get_ptr(&room.key) {
        // SAFETY: a live element.
        let winner = unsafe { &*pointer };
        if Connection::is_alive(winner.seen, room.key.protocol, winner.state, room.row.seen) {
            if made != 0 && !agree(winner, &room.row) {
                remove(&room.other_key);
            }
            read(pointer, &mut room.row);
            return 0;
        }
        remove(&room.key);
    }
    if insert(&room.key, &room.row) != 0 { 0 } else { counter::TABLE_FULL }
}

/// Ingress leaves the address of the caller as it is, so its port has to give way; egress has one address for all.
#[inline(always)]
fn set_port(room: &mut Scratch, port: u16) {
    if room.key.direction == direction::INGRESS {
        room.row.other_port = port;
    } else {
        room.row.port = port;
    }
}

#[inline(always)]
fn random_port() -> u16 {
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    (0x8000 | random as u16).to_be()
}

/// Makes the row of the answers, unless another connection has it.
#[inline(never)]
fn claim(room: &mut Scratch) -> u32 {
    let key = &room.other_key;
    if insert(key, &room.other_row) != 0 {
        return MADE;
    }
    let Some(found) = connections.get_ptr(key) else { return FULL };
    // SAFETY: a live element.
    let found = unsafe { &*found };
    if Connection::is_alive(found.seen, key.protocol, found.state, room.row.seen) {
        let ours = agree(found, &room.other_row) && !Connection::is_closed(found.state);
        return if ours { OURS } else { TAKEN };
    }
    // The row of the other direction, if it is still there, has expired as well, and whoever meets it removes it.
    remove(key);
    if insert(key, &room.other_row) != 0 { MADE } else { TAKEN }
}
