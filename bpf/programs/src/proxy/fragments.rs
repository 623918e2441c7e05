//! Packets in pieces: the first piece decides, the others follow it.

use balancing_abi::proxy::{Fragment, FragmentKey, counter};

use crate::{
    packet::{Packet, Piece},
    scratch::Scratch,
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
#[inline(never)]
pub(crate) fn lead(room: &mut Scratch, direction: u8) -> u32 {
    if room.packet.piece != Piece::First {
        return 0;
    }
    let row = Fragment { seen: room.now, address: room.row.address, header: room.packet.header, pad: 0 };
    match fragments.insert(&key(&room.packet, direction), &row, 0) {
        Ok(()) => 0,
        Err(_) => counter::TABLE_FULL,
    }
}

/// Finds the address that the first piece got.
#[inline(always)]
pub(crate) fn follow(room: &mut Scratch, direction: u8) -> Result<(), u32> {
    let row = fragments.get_ptr(&key(&room.packet, direction)).ok_or(counter::EARLY_FRAGMENT)?;
    // SAFETY: a live element.
    let row = unsafe { &*row };
    if room.now > row.seen + Fragment::LIFETIME {
        return Err(counter::EARLY_FRAGMENT);
    }
    // It would be put over the ports that were looked at.
    if room.packet.offset < row.header {
        return Err(counter::MALFORMED);
    }
    room.row.address = row.address;
    Ok(())
}
