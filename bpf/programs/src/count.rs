//! Counters.

use aya_ebpf::bindings::BPF_NOEXIST;
use balancing_abi::RareKey;

use crate::tables::{rare, redirected, stats};

#[inline(always)]
fn add(counter: Option<*mut u64>) -> bool {
    let Some(counter) = counter else { return false };
    // SAFETY: a live element of a per-CPU map; programs do not migrate while they run.
    unsafe { *counter += 1 };
    true
}

/// One more connection of the frontend was redirected.
#[inline(always)]
pub(crate) fn redirect(id: u32) {
    add(redirected.get_ptr_mut(id));
}

/// Something that seldom happens to the frontend happened.
#[inline(always)]
pub(crate) fn rarely(id: u32, kind: u32) {
    let key = RareKey { id, kind };
    if !add(rare.get_ptr_mut(&key)) && rare.insert(&key, &1, u64::from(BPF_NOEXIST)).is_err() {
        // Full, or an interrupt was first: count there if it is there.
        add(rare.get_ptr_mut(&key));
    }
}

/// One of `balancing_abi::stat`.
#[inline(always)]
pub(crate) fn stat(index: u32) {
    add(stats.get_ptr_mut(index));
}
