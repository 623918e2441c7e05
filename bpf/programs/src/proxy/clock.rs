//! The time by which rows live and die.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

/// Time runs 2 to the power of this as fast as it does; 0 but in tests, which cannot wait for hours. User space sets it before it
/// loads the programs.
#[unsafe(no_mangle)]
static TIME_SHIFT: u32 = 0;

/// Nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a static that only the loader writes; the helper has no arguments.
    unsafe { bpf_ktime_get_ns() << ((&raw const TIME_SHIFT).read_volatile() & 63) }
}
