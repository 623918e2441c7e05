//! Rows of connections: finding one, keeping it alive, forgetting it.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use balancing_abi::{
    TCP,
    proxy::{Connection, ConnectionKey, FrontendKey, counter, direction, state},
};

use crate::{
    count,
    headers::{ACK, FIN, RST, SYN},
    local::{self, same},
    packet::Packet,
    scratch::Scratch,
    services,
    tables::connections,
};

/// The key of a packet's row.
#[inline(always)]
fn key(packet: &Packet, direction: u8) -> ConnectionKey {
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

/// Reads a row by words; the compiler would copy it byte by byte. Time and state may change meanwhile, which is as good a moment sooner
/// or later.
#[inline(always)]
pub(crate) fn read(from: *const Connection, to: &mut Connection) {
    let to = (&raw mut *to).cast::<u64>();
    for word in 0..size_of::<Connection>() / size_of::<u64>() {
        // SAFETY: a live element and a row, both of that many aligned words.
        unsafe { to.add(word).write(from.cast::<u64>().add(word).read_volatile()) };
    }
}

/// Makes a row where there is none: 1 when it is made.
#[inline(never)]
pub(crate) fn insert(key: &ConnectionKey, row: &Connection) -> u32 {
    if connections.insert(key, row, u64::from(BPF_NOEXIST)).is_err() {
        return 0;
    }
    count::add(counter::ROWS_MADE, 1);
    1
}

/// Removes a row, if it is there.
#[inline(never)]
pub(crate) fn remove(key: &ConnectionKey) -> u32 {
    if connections.remove(key).is_ok() {
        count::add(counter::ROWS_REMOVED, 1);
    }
    0
}

/// Finds the living row of a key, whatever the packet: 1 when there is one.
#[inline(always)]
pub(crate) fn look(room: &mut Scratch) -> u32 {
    let Some(row) = connections.get_ptr(&room.key) else { return 0 };
    read(row, &mut room.row);
    u32::from(Connection::is_alive(room.row.seen, room.key.protocol, room.row.state, room.now))
}

/// Finds the living row of the packet, which the packet keeps alive: 1 when there is one. A dead one is removed, and one that
/// leads to a backend that is not declared any more.
#[inline(never)]
pub(crate) fn find(room: &mut Scratch, way: u8) -> u32 {
    room.key = key(&room.packet, way);
    let Some(pointer) = connections.get_ptr_mut(&room.key) else { return 0 };
    read(pointer, &mut room.row);
    let protocol = room.key.protocol;
    let starts = protocol == TCP && room.packet.flags & (SYN | ACK) == SYN;
    let follows = room.row.backend != 0
        && way == direction::INGRESS
        && Connection::follows(protocol, room.row.state, starts);
    if !Connection::is_alive(room.row.seen, protocol, room.row.state, room.now)
        || starts && Connection::is_closed(room.row.state)
        || follows && is_led(room, pointer) == 0
    {
        forget(room);
        return 0;
    }
    let bits = learn(&room.packet, way, &room.row);
    // A SYN is no sign of life of an established connection: whoever is called tells what it knows of it. One that is sent again
    // may have had no answer because the answer found no row.
    let is_new = room.row.state & state::ESTABLISHED == 0;
    let is_due = if starts { is_new } else { room.now > room.row.seen + Connection::REFRESH };
    if bits & !room.row.state != 0 || is_due {
        touch(pointer, bits, room.now);
        room.row.state |= bits;
        room.row.seen = room.now;
        if refresh_other(room) == 0 {
            remove(&room.key);
            return 0;
        }
    }
    1
}

/// Whether the row's backend is declared at the port that the packet goes to: 1 when it is.
#[inline(never)]
fn is_led(room: &mut Scratch, row: *mut Connection) -> u32 {
    if room.row.generation == local::generation_seen() {
        return 1;
    }
    let generation = local::generation();
    let key = &room.key;
    let frontend =
        FrontendKey { address: key.destination, port: key.destination_port, protocol: key.protocol, pad: 0 };
    let Some(service) = services::find(&frontend) else { return 0 };
    if services::backend(service, room.row.backend).is_none() {
        return 0;
    }
    // SAFETY: a field of a live element; another CPU may write it as well, with as much reason.
    unsafe { (&raw mut (*row).generation).write_volatile(generation) };
    1
}

/// What the packet tells about its connection.
#[inline(always)]
fn learn(packet: &Packet, direction: u8, row: &Connection) -> u32 {
    let caller = (direction == direction::INGRESS) == (row.backend != 0);
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

/// Brings the other direction's row up to date, and makes it again when the table has dropped it: 0 when another connection has
/// taken its place, so that this one is over.
#[inline(never)]
fn refresh_other(room: &mut Scratch) -> u32 {
    room.other_key = room.key.reverse(&room.row);
    room.other_row = room.key.reverse_row(&room.row);
    if let Some(other) = connections.get_ptr_mut(&room.other_key) {
        // SAFETY: a live element.
        let found = unsafe { &*other };
        if agree(found, &room.other_row) {
            touch(other, room.other_row.state, room.other_row.seen);
            return 1;
        }
        if Connection::is_alive(found.seen, room.other_key.protocol, found.state, room.now) {
            return 0;
        }
        remove(&room.other_key);
    }
    insert(&room.other_key, &room.other_row);
    1
}

/// Removes the row of the packet, and the other direction's if it still is that.
#[inline(never)]
fn forget(room: &mut Scratch) -> u32 {
    room.other_key = room.key.reverse(&room.row);
    room.other_row = room.key.reverse_row(&room.row);
    if let Some(other) = connections.get_ptr(&room.other_key)
        // SAFETY: a live element.
        && agree(unsafe { &*other }, &room.other_row)
    {
        remove(&room.other_key);
    }
    remove(&room.key);
    0
}
