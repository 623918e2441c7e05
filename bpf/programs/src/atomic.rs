//! Atomic instructions with a result, there since Linux 5.12. Rust has none for BPF targets.
//!
//! The kernel makes them full barriers on every architecture.

use core::arch::asm;

/// Adds 1 and returns the value before.
///
/// # Safety
/// `word` is a live, aligned map element.
#[inline(always)]
pub(crate) unsafe fn fetch_add(word: *mut u64) -> u64 {
    let mut value = 1_u64;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
            word = in(reg) word,
            value = inout(reg) value,
        );
    }
    value
}

/// Stores `new` if the word is `expected`; returns what it was.
///
/// # Safety
/// `word` is a live, aligned map element.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, expected: u64, new: u64) -> u64 {
    let mut seen = expected;
    // SAFETY: the caller's promise; the instruction compares with r0 and answers in it.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") seen,
        );
    }
    seen
}

/// Reads a word before whatever is read after it.
///
/// # Safety
/// `word` is a live, aligned map element.
#[inline(always)]
pub(crate) unsafe fn load(word: *mut u32) -> u32 {
    let mut value = 0_u32;
    // SAFETY: the caller's promise; the word stays as it is.
    unsafe {
        asm!(
            "{value} = atomic_fetch_or((u32 *)({word} + 0), {value})",
            word = in(reg) word,
            value = inout(wreg) value,
        );
    }
    value
}
