//! The backends of one layer: the head of the set, one by weight, one by id.
//!
//! References, not pointers, where there may be none: an `Option` of a pointer has a second word, which the compiler saves to
//! the stack without having written it, and kernels before 6.3 refuse to read it back.

use balancing_abi::sockets::{Frontend, SetHead, Slot, flags, pick};

use crate::{random, tables::backends};

/// What a set needs beyond its backends: in the slot before its first.
#[inline(always)]
pub(crate) fn head(frontend: *const Frontend) -> Option<&'static SetHead> {
    // SAFETY: a live array element that does not change.
    let target = unsafe { &(*frontend).target };
    if target.detail & flags::HEAD == 0 {
        return None;
    }
    // SAFETY: a slot has room for a head, and this one holds it as long as the frontend names the set.
    backends.get(target.address[0].wrapping_sub(1)).map(|slot| unsafe { &*(&raw const *slot).cast() })
}

/// A random slot by weight.
#[inline(always)]
pub(crate) fn draw(frontend: *const Frontend) -> Option<&'static Slot> {
    // SAFETY: a live array element that does not change.
    let (target, count) = unsafe { (&(*frontend).target, (*frontend).count) };
    if target.detail & flags::DRAINED != 0 {
        return None;
    }
    let first = target.address[0];
    let (row, fraction) = pick::draw(random::number(), count);
    let slot = backends.get(first.wrapping_add(row))?;
    if fraction < slot.threshold { Some(slot) } else { backends.get(first.wrapping_add(slot.alias)) }
}

/// The slot with the id, if the set still has it.
#[inline(always)]
pub(crate) fn find(frontend: *const Frontend, id: u32) -> Option<&'static Slot> {
    // SAFETY: a live array element that does not change.
    let (first, count) = unsafe { ((*frontend).target.address[0], (*frontend).count) };
    backends.get(find_slot(first, count, id))
}

/// The index of the slot with the id among consecutive ones sorted by id; without one an index beyond the table.
///
/// A global function to the verifier: it is checked once and not again for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_slot(first: u32, count: u32, id: u32) -> u32 {
    let mut low = 0;
    let mut high = count;
    for _ in 0..pick::SEARCH_STEPS {
        if low >= high {
            return u32::MAX;
        }
        let middle = low + (high - low) / 2;
        let Some(slot) = backends.get(first.wrapping_add(middle)) else { return u32::MAX };
        if slot.target.id == id {
            return first.wrapping_add(middle);
        }
        if slot.target.id < id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    u32::MAX
}
