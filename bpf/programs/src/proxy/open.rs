//! New connections: the row of the answers first, then the row of the packet.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_prandom_u32};
use balancing_abi::proxy::{Connection, ConnectionKey, counter, direction};

use crate::{
    connections::{agree, forget, look},
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

/// Makes both rows of a connection. `row` says where the packet goes; the port of the end that may get another one is changed where it
/// has to be. Whoever comes second takes what is there.
#[inline(always)]
pub(crate) fn open(key: &ConnectionKey, row: &mut Connection) -> Result<(), u32> {
    let mut claimed = TAKEN;
    for attempt in 0..TRIES {
        if attempt != 0 {
            set_port(key, row, random_port());
        }
        claimed = claim(&key.reverse(row), &key.reverse_row(row));
        if claimed != TAKEN {
            break;
        }
    }
    match claimed {
        TAKEN => return Err(counter::NO_PORT),
        FULL => return Err(counter::TABLE_FULL),
        _ => {}
    }
    if connections.insert(key, row, u64::from(BPF_NOEXIST)).is_ok() {
        return Ok(());
    }
    let winner = look(key, row.seen);
    let agreed = winner.is_some_and(|winner| agree(&winner, row));
    if claimed == MADE && !agreed {
        connections.remove(&key.reverse(row)).ok();
    }
    *row = winner.ok_or(counter::TABLE_FULL)?;
    Ok(())
}

/// Ingress leaves the address of the caller as it is, so its port has to give way; egress has one address for all.
#[inline(always)]
fn set_port(key: &ConnectionKey, row: &mut Connection, port: u16) {
    if key.direction == direction::INGRESS {
        row.other_port = port;
    } else {
        row.port = port;
    }
}

#[inline(always)]
fn random_port() -> u16 {
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    (0x8000 | random as u16).to_be()
}

#[inline(never)]
fn claim(key: &ConnectionKey, row: &Connection) -> u32 {
    if connections.insert(key, row, u64::from(BPF_NOEXIST)).is_ok() {
        return MADE;
    }
    let Some(found) = connections.get_ptr(key) else { return FULL };
    // SAFETY: a live element.
    let found = unsafe { found.read() };
    if Connection::is_alive(found.seen, key.protocol, found.state, row.seen) {
        let ours = agree(&found, row) && !Connection::is_closed(found.state);
        return if ours { OURS } else { TAKEN };
    }
    forget(key, &found);
    if connections.insert(key, row, u64::from(BPF_NOEXIST)).is_ok() { MADE } else { TAKEN }
}
