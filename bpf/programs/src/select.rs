//! The choice of a backend within one layer.

use balancing_abi::sockets::{Frontend, SetHead, Slot, Target, flags};

use crate::{
    affinity,
    backend_set::{draw, find},
    context::Context,
};

/// The backend for one more connection, `None` when there is none; `kept` is the id of the backend that the socket uses
/// already, or 0.
#[inline(always)]
pub(crate) fn choose(
    ctx: &Context,
    frontend: *const Frontend,
    head: Option<*const SetHead>,
    kept: u32,
) -> Option<*const Target> {
    // SAFETY: a live array element that does not change.
    let target = unsafe { &raw const (*frontend).target };
    // SAFETY: as above.
    let (detail, count) = unsafe { ((*target).detail, (*frontend).count) };
    if detail & flags::SET == 0 {
        // SAFETY: as above.
        let plain = detail & flags::DRAINED == 0 || kept != 0 && unsafe { (*target).id } == kept;
        return if count != 0 && plain { Some(target) } else { None };
    }
    in_set(ctx, frontend, head, kept).map(|slot| slot.cast())
}

#[inline(always)]
fn in_set(
    ctx: &Context,
    frontend: *const Frontend,
    head: Option<*const SetHead>,
    kept: u32,
) -> Option<*const Slot> {
    if kept != 0
        && let Some(slot) = find(frontend, kept)
    {
        return Some(slot);
    }
    match head {
        // SAFETY: a live array element that does not change.
        Some(head) if unsafe { (*head).affinity } != 0 => affinity::choose(ctx, frontend, head),
        _ => draw(frontend),
    }
}
