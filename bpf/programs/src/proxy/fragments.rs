//! Packets in pieces: the first piece decides, the others follow it.

use balancing_abi::proxy::{Fragment, FragmentKey, counter};

use crate::{
    packet::{Packet, Piece},
    tables::fragments,
};

#[inline(always)]
fn key(packet: &Packet, direction: u8) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.id,
        protocol: packet.protocol,
        direction,
        pad: 0,
    }
}

/// Notes for later pieces which address the first one got.
#[inline(always)]
pub(crate) fn lead(packet: &Packet, direction: u8, address: &[u32; 4], now: u64) -> Result<(), u32> {
    if packet.piece != Piece::First {
        return Ok(());
    }
    let row = Fragment { seen: now, address: *address, header: packet.header, pad: 0 };
    fragments.insert(&key(packet, direction), &row, 0).map_err(|_| counter::TABLE_FULL)
}

/// The address that the first piece got.
#[inline(always)]
pub(crate) fn follow(packet: &Packet, direction: u8, now: u64) -> Result<[u32; 4], u32> {
    let row = fragments.get_ptr(&key(packet, direction)).ok_or(counter::EARLY_FRAGMENT)?;
    // SAFETY: a live element.
    let row = unsafe { row.read() };
    if now > row.seen + Fragment::LIFETIME {
        return Err(counter::EARLY_FRAGMENT);
    }
    // It would be put over the ports that were looked at.
    if packet.offset < row.header {
        return Err(counter::MALFORMED);
    }
    Ok(row.address)
}
