//! From a dialled address to its frontend. A miss ends here: it calls no helper and writes nothing.

use balancing_abi::sockets::{Frontend, index};

use crate::{config, context::Dialled, tables};

/// The first layer of a dialled address. The slot stays as it is while the program runs; see [`index`].
#[inline(always)]
pub(crate) fn find(dialled: &Dialled) -> Option<*const Frontend> {
    let tail = index::tail(dialled.port, dialled.protocol);
    let hash = index::hash(&dialled.address, tail, config::seed());
    let bucket = index::bucket(hash, config::bucket_mask());
    let block = tables::index.get_ptr(bucket / index::BLOCK)?.cast::<u32>();
    // SAFETY: a word of a live array element; volatile, because user space changes it by single stores.
    let word = unsafe { block.add((bucket % index::BLOCK) as usize).read_volatile() };
    if word & index::filter(hash) == 0 {
        return None;
    }
    let mut slot = index::slot(word);
    for _ in 0..index::CHAIN {
        if slot == 0 {
            return None;
        }
        let frontend = tables::frontends.get_ptr(slot)?;
        if is_at(frontend, dialled, tail) {
            return Some(frontend);
        }
        // SAFETY: a live array element; volatile, because user space changes it by single stores.
        slot = unsafe { (&raw const (*frontend).chain).read_volatile() };
    }
    None
}

/// Whether the slot is of the dialled address: its first 20 bytes are the key.
#[inline(always)]
fn is_at(frontend: *const Frontend, dialled: &Dialled, tail: u32) -> bool {
    let [a, b, c, d] = dialled.address;
    let words = frontend.cast::<u64>();
    // SAFETY: 20 bytes of a live array element, which lies at a multiple of 8.
    unsafe {
        words.read() == index::pair(a, b)
            && words.add(1).read() == index::pair(c, d)
            && words.add(2).cast::<u32>().read() == tail
    }
}

/// The layer below a layer.
#[inline(always)]
pub(crate) fn below(frontend: *const Frontend) -> Option<*const Frontend> {
    // SAFETY: a live array element.
    let next = unsafe { (*frontend).next };
    if next == 0 { None } else { tables::frontends.get_ptr(next) }
}
