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
    head: Option<&'static SetHead>,
    kept: u32,
) -> Option<&'static Target> {
    // SAFETY: a live array element that does not change.
    let (target, count) = unsafe { (&(*frontend).target, (*frontend).count) };
    let detail = target.detail;
    if detail & flags::SET == 0 {
        let plain = detail & flags::DRAINED == 0 || kept != 0 && target.id == kept;
        return if count != 0 && plain { Some(target) } else { None };
    }
    in_set(ctx, frontend, head, kept).map(|slot| &slot.target)
}

#[inline(always)]
fn in_set(
    ctx: &Context,
    frontend: *const Frontend,
    head: Option<&'static SetHead>,
    kept: u32,
) -> Option<&'static Slot> {
    if kept != 0
        && let Some(slot) = find(frontend, kept)
    {
        return Some(slot);
    }
    match head {
        Some(head) if head.affinity != 0 => affinity::choose(ctx, frontend, head),
        _ => draw(frontend),
    }
}
