//! The QoS cap: never more than the limit in one second of the monotonic clock, on any number of CPUs.
//!
//! One word per policy holds the second and the grants in it. A grant is one atomic addition whose
//! old value is its rank, so two grants never have the same rank.

use core::arch::asm;

use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::tables::qos;

const NANOSECONDS: u64 = 1_000_000_000;
const TRIES: u32 = 8;

/// Takes one of the second's grants. A policy without a window has no limit yet.
#[inline(always)]
pub(crate) fn grant(service_id: u32, limit: u32) -> bool {
    let Some(window) = qos.get_ptr_mut(&service_id) else { return true };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() } / NANOSECONDS;
    for _ in 0..TRIES {
        // SAFETY: a live, aligned element that programs only change atomically.
        let seen = unsafe { window.read_volatile() };
        if seen >> 32 >= now {
            // Another CPU may already be in the next second: then the grant counts there.
            return (seen as u32) < limit && (fetch_add(window) as u32) < limit;
        }
        if compare_exchange(window, seen, now << 32 | 1) {
            return true;
        }
    }
    false
}

// Rust has no atomics with a result for BPF targets; the instructions are there since Linux 5.12.

#[inline(always)]
fn fetch_add(word: *mut u64) -> u64 {
    let mut value = 1_u64;
    // SAFETY: `word` is a live, aligned map element.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
            word = in(reg) word,
            value = inout(reg) value,
        );
    }
    value
}

#[inline(always)]
fn compare_exchange(word: *mut u64, expected: u64, new: u64) -> bool {
    let mut seen = expected;
    // SAFETY: `word` is a live, aligned map element; the instruction compares and answers in r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") seen,
        );
    }
    seen == expected
}
