//! Random numbers, from a state of each CPU: the generator SplitMix64.
//!
//! The kernel's helper does as much and costs a call and its returns, which processors with mitigations make dearer than
//! all the rest of a choice. Where two programs meet on a CPU one of them repeats a number, which harms nobody.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use balancing_abi::sockets::index::mix;

use crate::{config, tables};

/// 32 random bits.
#[inline(always)]
pub(crate) fn number() -> u32 {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(state) = tables::random.get_ptr_mut(cpu) else { return 0 };
    let count = state.cast::<u64>();
    // SAFETY: the first word of a live array element.
    let n = unsafe {
        let n = count.read_volatile();
        count.write_volatile(n.wrapping_add(1));
        n
    };
    // Each CPU has a sequence of its own.
    (mix(config::seed() ^ u64::from(cpu) << 48, n) >> 32) as u32
}
