//! Constants that user space sets before it loads the programs.
//!
//! The verifier knows their values and removes the branches not taken, so that a helper the kernel lacks may
//! stand in a branch that is switched off.

use balancing_abi::sockets::index::Seeds;

/// 1: act only on sockets of the host's network namespace.
#[unsafe(no_mangle)]
static HOST_ONLY: u32 = 0;
/// Cookie of the host's network namespace; 0 = the kernel's first one.
#[unsafe(no_mangle)]
static HOST_NETNS: u64 = 0;
/// `flags::PODS` or `flags::HOST`: whose sockets the program sees.
#[unsafe(no_mangle)]
static CLIENTS: u32 = 0;
/// 1: the kernel has `bpf_set_retval` (Linux 5.18).
#[unsafe(no_mangle)]
static SET_RETVAL: u32 = 0;
/// Slots of the connection table minus one; the number of slots is a power of two.
#[unsafe(no_mangle)]
static CONNECTION_MASK: u32 = 0;
/// `sockets::index::bucket_shift` of the index.
#[unsafe(no_mangle)]
static BUCKET_SHIFT: u32 = 0;
/// The random number that the factors follow from.
#[unsafe(no_mangle)]
static SEED: u64 = 0;
/// Factors of `sockets::index::hash`.
#[unsafe(no_mangle)]
static SEED_LOW: u64 = 0;
#[unsafe(no_mangle)]
static SEED_HIGH: u64 = 0;
#[unsafe(no_mangle)]
static SEED_TAIL: u64 = 0;
/// Number of frontend ids: the counters of the next CPU come after as many.
#[unsafe(no_mangle)]
static IDS: u32 = 0;

macro_rules! read {
    ($name:ident) => {
        // SAFETY: a static of this file; volatile, because its value is set after compilation.
        unsafe { core::ptr::read_volatile(&raw const $name) }
    };
}

#[inline(always)]
pub(crate) fn host_only() -> bool {
    read!(HOST_ONLY) == 1
}

#[inline(always)]
pub(crate) fn host_netns() -> u64 {
    read!(HOST_NETNS)
}

#[inline(always)]
pub(crate) fn clients() -> u32 {
    read!(CLIENTS)
}

#[inline(always)]
pub(crate) fn set_retval() -> bool {
    read!(SET_RETVAL) == 1
}

#[inline(always)]
pub(crate) fn connection_mask() -> u32 {
    read!(CONNECTION_MASK)
}

#[inline(always)]
pub(crate) fn bucket_shift() -> u32 {
    read!(BUCKET_SHIFT)
}

#[inline(always)]
pub(crate) fn seeds() -> Seeds {
    Seeds { low: read!(SEED_LOW), high: read!(SEED_HIGH), tail: read!(SEED_TAIL) }
}

#[inline(always)]
pub(crate) fn seed() -> u64 {
    read!(SEED)
}

#[inline(always)]
pub(crate) fn ids() -> u32 {
    read!(IDS)
}
