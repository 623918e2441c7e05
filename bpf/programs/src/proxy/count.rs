//! Counters, and the verdict that goes with them.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT},
    programs::TcContext,
};
use balancing_abi::proxy::counter;

use crate::tables::counters;

/// Adds to a counter.
#[inline(always)]
pub(crate) fn add(index: u32, amount: u64) {
    let Some(counter) = counters.get_ptr_mut(index) else { return };
    // Where the kernel preempts a program between load and store, another one's addition on this CPU may be lost.
    // SAFETY: a live element that only programs on this CPU write; they do not migrate while they run.
    unsafe { *counter += amount };
}

/// Counts the packet and tells the kernel what becomes of it. `direction` is the first counter of the direction. What the kernel has
/// put together, or not yet cut, counts as the packets that it is on the wire.
#[inline(always)]
pub(crate) fn verdict(ctx: &TcContext, direction: u32, decision: Result<(), u32>) -> i32 {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: the context of the program.
    let (segments, bytes) = unsafe { ((*skb).gso_segs, (*skb).len) };
    let packets = u64::from(if segments > 1 { segments } else { 1 });
    match decision {
        Ok(()) => {
            add(direction, packets);
            add(direction + 1, u64::from(bytes));
            TC_ACT_OK
        }
        Err(reason) => {
            add(counter::drop(reason), packets);
            TC_ACT_SHOT
        }
    }
}
