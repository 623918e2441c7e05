//! Rows of connections: finding one, keeping it alive, forgetting it.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use balancing_abi::{
    TCP,
    proxy::{Connection, ConnectionKey, direction, kind, state},
};

use crate::{
    headers::{ACK, FIN, RST, SYN},
    local::same,
    packet::Packet,
    tables::connections,
};

/// The key of a packet's row.
#[inline(always)]
pub(crate) fn key(packet: &Packet, direction: u8) -> ConnectionKey {
    ConnectionKey {
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        direction,
        pad: 0,
    }
}

/// Whether two rows say the same of a packet.
#[inline(always)]
pub(crate) fn agree(a: &Connection, b: &Connection) -> bool {
    same(&a.address, &b.address) && a.port == b.port && a.other_port == b.other_port
}

/// The living row of a key, whatever the packet.
#[inline(always)]
pub(crate) fn look(key: &ConnectionKey, now: u64) -> Option<Connection> {
    let row = connections.get_ptr(key)?;
    // SAFETY: a live element.
    let row = unsafe { row.read() };
    Connection::is_alive(row.seen, key.protocol, row.state, now).then_some(row)
}

/// The living row of a packet, which this packet keeps alive. A dead one is removed.
#[inline(always)]
pub(crate) fn find(key: &ConnectionKey, packet: &Packet, now: u64) -> Option<Connection> {
    let pointer = connections.get_ptr_mut(key)?;
    // SAFETY: a live element; time and state may change meanwhile, which is as good a moment sooner or later.
    let row = unsafe { pointer.read() };
    let starts = key.protocol == TCP && packet.flags & (SYN | ACK) == SYN;
    if !Connection::is_alive(row.seen, key.protocol, row.state, now)
        || starts && Connection::is_closed(row.state)
    {
        forget(key, &row);
        return None;
    }
    let bits = learn(packet, key.direction, &row);
    if bits & !row.state != 0 || now > row.seen + Connection::REFRESH {
        touch(pointer, bits, now);
        let other = Connection { seen: now, state: row.state | bits, ..row };
        refresh_other(key, &other);
    }
    Some(row)
}

/// What the packet tells about its connection.
#[inline(always)]
fn learn(packet: &Packet, direction: u8, row: &Connection) -> u32 {
    let caller = (direction == direction::INGRESS) == (row.kind == kind::PROXIED);
    let mut bits = if caller { 0 } else { state::REPLIED };
    if packet.protocol == TCP {
        if caller && row.state & state::REPLIED != 0 && packet.flags & (SYN | ACK) == ACK {
            bits |= state::ESTABLISHED;
        }
        if packet.flags & FIN != 0 {
            bits |= state::FIN << direction;
        }
        if packet.flags & RST != 0 {
            bits |= state::RESET;
        }
    }
    bits
}

#[inline(always)]
fn touch(row: *mut Connection, bits: u32, now: u64) {
    // SAFETY: fields of a live element; the time is one aligned store.
    unsafe {
        let word = &raw mut (*row).state;
        asm!("lock *(u32 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(wreg) bits);
        (&raw mut (*row).seen).write_volatile(now);
    }
}

/// Brings the other direction's row up to date, and makes it again when the table has dropped it.
#[inline(never)]
fn refresh_other(key: &ConnectionKey, row: &Connection) -> u32 {
    let (other_key, other_row) = (key.reverse(row), key.reverse_row(row));
    match connections.get_ptr_mut(&other_key) {
        // SAFETY: a live element.
        Some(other) if agree(unsafe { &*other }, &other_row) => touch(other, row.state, row.seen),
        Some(_) => {}
        None => {
            connections.insert(&other_key, &other_row, u64::from(BPF_NOEXIST)).ok();
        }
    }
    0
}

/// Removes a row, and the other direction's if it still is that.
#[inline(never)]
pub(crate) fn forget(key: &ConnectionKey, row: &Connection) -> u32 {
    let (other_key, other_row) = (key.reverse(row), key.reverse_row(row));
    if let Some(other) = connections.get_ptr(&other_key)
        // SAFETY: a live element.
        && agree(unsafe { &*other }, &other_row)
    {
        connections.remove(&other_key).ok();
    }
    connections.remove(key).ok();
    0
}
