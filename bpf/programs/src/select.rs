//! The choice of a backend within one layer.
//!
//! Choices travel as positions: the index of a slot, or one of two values that no slot has.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use balancing_abi::{Affinity, AffinityKey, Frontend, conn, flags, pick};

use crate::{
    context::Context,
    event::Peer,
    tables::{affinity, backends},
};

const NANOSECONDS: u64 = 1_000_000_000;
/// The lone backend inside the frontend.
const LONE: u32 = u32::MAX;
/// No backend: beyond the end of every table of slots.
const NONE: u32 = u32::MAX - 1;

/// Writes a backend for one more connection to `peer` and returns its id, 0 when there is none; `kept` is the id of
/// the backend that the socket uses already, or 0.
#[inline(always)]
pub(crate) fn choose(ctx: &Context, frontend: &Frontend, kept: u32, peer: &mut Peer) -> u32 {
    let plain = frontend.affinity | kept | frontend.flags & flags::DRAINED == 0;
    let position = if plain { draw(frontend) } else { remembered(ctx, frontend, kept) };
    if position == LONE {
        *peer = (frontend.target.address, frontend.target.port);
        return frontend.target.id;
    }
    match backends.get(position) {
        Some(slot) => {
            *peer = (slot.address, slot.port);
            slot.id
        }
        None => 0,
    }
}

/// A random backend by weight.
#[inline(always)]
fn draw(frontend: &Frontend) -> u32 {
    if frontend.count == 1 {
        return LONE;
    }
    let first = frontend.target.address[0];
    // SAFETY: no arguments.
    let (row, fraction) = pick::draw(unsafe { bpf_get_prandom_u32() }, frontend.count);
    match backends.get(first + row) {
        Some(slot) if fraction < slot.threshold => first + row,
        Some(slot) => first + slot.alias,
        None => NONE,
    }
}

/// The choice where memory plays a part: the socket's, the client's, or that of weights that are all zero.
#[inline(never)]
fn remembered(ctx: &Context, frontend: &Frontend, kept: u32) -> u32 {
    if kept != 0 {
        let position = find(frontend, kept);
        if position != NONE {
            return position;
        }
    }
    if frontend.affinity != 0 {
        return with_affinity(ctx, frontend);
    }
    if frontend.flags & flags::DRAINED != 0 { NONE } else { draw(frontend) }
}

/// The backend with the id, if the set still has it.
#[inline(always)]
fn find(frontend: &Frontend, id: u32) -> u32 {
    if frontend.count == 1 {
        return if frontend.target.id == id { LONE } else { NONE };
    }
    find_slot(frontend.target.address[0], frontend.count, id)
}

/// The slot with the id among consecutive ones sorted by id, or [`NONE`].
///
/// A global function to the verifier: it is checked once and not again for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_slot(first: u32, count: u32, id: u32) -> u32 {
    let mut low = 0;
    let mut high = count;
    for _ in 0..pick::SEARCH_STEPS {
        if low >= high {
            return NONE;
        }
        let middle = low + (high - low) / 2;
        let Some(slot) = backends.get(first.wrapping_add(middle)) else { return NONE };
        if slot.id == id {
            return first.wrapping_add(middle);
        }
        if slot.id < id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    NONE
}

/// The id of the backend at a position.
#[inline(always)]
fn id_at(frontend: &Frontend, position: u32) -> u32 {
    if position == LONE { frontend.target.id } else { backends.get(position).map_or(0, |s| s.id) }
}

/// The client's backend while it lives and was used in time, else a new one.
#[inline(never)]
fn with_affinity(ctx: &Context, frontend: &Frontend) -> u32 {
    let key = AffinityKey {
        client: ctx.netns(),
        reference: conn::reference(frontend.id, u32::from(frontend.target.generation)),
        pad: 0,
    };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(known) = affinity.get_ptr_mut(&key) {
        // SAFETY: a live element; racing writers leave one of their values.
        let Affinity { used, backend_id, .. } = unsafe { known.read() };
        if now.wrapping_sub(used) < u64::from(frontend.affinity) * NANOSECONDS {
            let position = find(frontend, backend_id);
            if position != NONE {
                // SAFETY: as above.
                unsafe { (*known).used = now };
                return position;
            }
        }
    }
    if frontend.flags & flags::DRAINED != 0 {
        return NONE;
    }
    let position = draw(frontend);
    if position != NONE {
        let value = Affinity { used: now, backend_id: id_at(frontend, position), pad: 0 };
        // A full table forgets its oldest clients; a failure costs affinity, not the connection.
        let _unremembered = affinity.insert(&key, &value, 0);
    }
    position
}
