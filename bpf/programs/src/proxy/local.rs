//! The own tunnel addresses, and the generation of backends.

use core::arch::asm;

use crate::{atomic::load, tables::control};

/// The own address of a family, `None` while there is none.
#[inline(always)]
pub(crate) fn address(v6: bool) -> Option<[u32; 4]> {
    let row = control.get_ptr(0)?;
    // SAFETY: a live array element; indices are 0 or 1. User space writes only the copy that does not count.
    let address = unsafe {
        let active = (&raw const (*row).active).read_volatile() & 1;
        let mut place = 2 * u64::from(active) + u64::from(v6);
        // The verifier does not know that a bool is 0 or 1, and the compiler would leave out what says so.
        asm!("{place} &= 3", place = inout(reg) place);
        let copies = &raw const (*row).local;
        copies.cast::<[u32; 4]>().add(place as usize).read()
    };
    if address[0] | address[1] | address[2] | address[3] == 0 { None } else { Some(address) }
}

/// The generation of backends, as this CPU has heard of it last. A row of another one may be wrong.
#[inline(always)]
pub(crate) fn generation_seen() -> u32 {
    let Some(row) = control.get_ptr(0) else { return 0 };
    // SAFETY: an aligned word of a live array element.
    unsafe { (&raw const (*row).generation).read_volatile() }
}

/// The generation of backends; what is read after it is of this one or a later one.
#[inline(always)]
pub(crate) fn generation() -> u32 {
    let Some(row) = control.get_ptr_mut(0) else { return 0 };
    // SAFETY: an aligned word of a live array element.
    unsafe { load(&raw mut (*row).generation) }
}

/// Whether two addresses are one.
#[inline(always)]
pub(crate) fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}
