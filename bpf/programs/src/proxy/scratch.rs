//! What one packet needs on its way: more than a program's stack of 512 bytes has room for beside its calls.
//!
//! Each CPU has a few of them. A program stays on its CPU, and most kernels run one at a time there, with softirqs off. A kernel that
//! preempts softirqs (`PREEMPT_RT`) may run another one before the first has ended, and a run that user space asks for may be
//! interrupted by a packet; so a program takes a room that nobody is in, and leaves it when it ends. Functions that the verifier
//! looks at by themselves get the pointer and answer with a number: 0, or the reason why the packet is dropped.

use core::ptr::NonNull;

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use balancing_abi::proxy::{Connection, ConnectionKey, counter};

use crate::{atomic::compare_exchange, packet::Packet, tables};

/// Rooms of a CPU: programs that may be under way there at once.
pub(crate) const ROOMS: u32 = 4;

/// A room.
#[repr(C)]
pub(crate) struct Scratch {
    /// 1 while a program is in it.
    taken: u64,
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

/// Decides with a room of this CPU.
#[inline(always)]
pub(crate) fn with(decide: impl FnOnce(&mut Scratch) -> Result<(), u32>) -> Result<(), u32> {
    // SAFETY: a live element that nobody else is in.
    let room = unsafe { enter().as_mut() }.ok_or(counter::KERNEL)?;
    let decision = decide(room);
    // Whoever takes it next runs on this CPU.
    // SAFETY: an aligned word of a live element.
    unsafe { (&raw mut room.taken).write_volatile(0) };
    decision
}

/// Takes a room; null when there is none.
#[inline(never)]
fn enter() -> *mut Scratch {
    for number in 0..ROOMS {
        let Some(room) = tables::scratch.get_ptr_mut(number) else { break };
        // SAFETY: an aligned word of a live element that is only changed by who takes it, and by who has taken it.
        if unsafe { compare_exchange(&raw mut (*room).taken, 0, 1) } == 0 {
            return room;
        }
    }
    core::ptr::null_mut()
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
