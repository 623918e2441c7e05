//! The QoS cap: never more than the limit in one second of the monotonic clock, on any number of CPUs.
//!
//! One word per policy holds the second and the grants in it. A grant is one atomic addition whose
//! old value is its rank, so two grants never have the same rank.

use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::{
    atomic::{compare_exchange, fetch_add},
    tables::qos,
};

const NANOSECONDS: u64 = 1_000_000_000;
const TRIES: u32 = 8;

/// Takes one of the second's grants of a window.
#[inline(always)]
pub(crate) fn grant(window: u32, limit: u32) -> bool {
    let Some(window) = qos.get_ptr_mut(window) else { return false };
    // SAFETY: a field of a live, aligned element.
    let grants = unsafe { &raw mut (*window).grants };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() } / NANOSECONDS;
    for _ in 0..TRIES {
        // SAFETY: a word that programs only change atomically.
        let seen = unsafe { grants.read_volatile() };
        if seen >> 32 >= now {
            // Another CPU may already be in the next second: then the grant counts there.
            // SAFETY: a live, aligned element.
            return (seen as u32) < limit && (unsafe { fetch_add(grants) } as u32) < limit;
        }
        // SAFETY: as above.
        if unsafe { compare_exchange(grants, seen, now << 32 | 1) } == seen {
            return true;
        }
    }
    false
}
