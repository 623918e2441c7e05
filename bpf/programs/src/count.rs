//! Counters.

use core::arch::asm;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use balancing_abi::sockets::{RareCounters, reverse_nat};

use crate::{
    config,
    tables::{rare, redirected, stats},
};

/// One more connection of the frontend was redirected.
#[inline(always)]
pub(crate) fn redirect(reference: u32) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let row = cpu.wrapping_mul(config::ids()).wrapping_add(reverse_nat::id(reference));
    add(redirected.get_ptr_mut(row));
}

/// What seldom happens to a frontend.
#[derive(Clone, Copy)]
pub(crate) enum Rare {
    QosOverflow,
    NoBackend,
    Skipped,
}

/// Counts it.
#[inline(always)]
pub(crate) fn rarely(reference: u32, what: Rare) {
    let Some(row) = rare.get_ptr_mut(reverse_nat::id(reference)) else { return };
    // SAFETY: fields of a live array element.
    let counter = unsafe {
        match what {
            Rare::QosOverflow => &raw mut (*row).qos_overflow,
            Rare::NoBackend => &raw mut (*row).no_backend,
            Rare::Skipped => &raw mut (*row).skipped,
        }
    };
    const _: () = assert!(align_of::<RareCounters>() == 8);
    add_atomically(counter);
}

/// Adds 1 to a counter that CPUs share.
#[inline(always)]
fn add_atomically(counter: *mut u64) {
    // SAFETY: a live, aligned map element.
    unsafe { asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1_u64) };
}

/// One of `sockets::stat`.
#[inline(always)]
pub(crate) fn stat(index: u32) {
    add(stats.get_ptr_mut(index));
}

#[inline(always)]
fn add(counter: Option<*mut u64>) {
    let Some(counter) = counter else { return };
    // Where the kernel preempts a program between load and store, another one's addition on this CPU may be lost. An atomic
    // addition would make each redirected connection dearer.
    // SAFETY: a live element that only programs on this CPU write; they do not migrate while they run.
    unsafe { *counter += 1 };
}
