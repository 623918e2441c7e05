//! What one packet needs on its way: more than a program's stack of 512 bytes has room for beside its calls.
//!
//! There is one for each CPU. The kernel runs these programs with softirqs off, and one at a time on a CPU. Functions that the verifier
//! looks at by themselves get the pointer and answer with a number: 0, or the reason why the packet is dropped.

use core::ptr::NonNull;

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use balancing_abi::proxy::{Connection, ConnectionKey, counter};

use crate::{packet::Packet, tables};

/// The room.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    /// Of the packet.
    pub(crate) key: ConnectionKey,
    /// What becomes of the packet.
    pub(crate) row: Connection,
    /// Of the answers.
    pub(crate) other_key: ConnectionKey,
    pub(crate) other_row: Connection,
    /// The own address of the packet's family.
    pub(crate) own: [u32; 4],
    pub(crate) now: u64,
}

/// This CPU's room.
#[inline(always)]
pub(crate) fn get<'a>() -> Result<&'a mut Scratch, u32> {
    let room = tables::scratch.get_ptr_mut(0).ok_or(counter::KERNEL)?;
    // SAFETY: a live element that nobody else on this CPU uses while the program runs.
    Ok(unsafe { &mut *room })
}

/// The packet, as the helpers want it.
#[inline(always)]
pub(crate) fn context(skb: *mut __sk_buff) -> TcContext {
    // SAFETY: the context of the program is never null.
    TcContext::new(unsafe { NonNull::new_unchecked(skb) })
}

/// An answer as a number.
#[inline(always)]
pub(crate) fn number(result: Result<(), u32>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(reason) => reason,
    }
}

/// A number as an answer.
#[inline(always)]
pub(crate) fn answer(number: u32) -> Result<(), u32> {
    if number == 0 { Ok(()) } else { Err(number) }
}
