//! From an address to its frontend, and whether it ever was a backend. What is none of ours ends here: it calls no helper
//! and writes nothing.

use balancing_abi::sockets::{Frontend, index, known};

use crate::{config, context::Dialled, tables};

/// The hash of an address.
#[inline(always)]
pub(crate) fn hash(dialled: &Dialled) -> u64 {
    index::hash(&dialled.address, index::tail(dialled.port, dialled.protocol), &config::seeds())
}

/// Whether a socket may have been redirected to the address.
#[inline(always)]
pub(crate) fn may_be_backend(hash: u64) -> bool {
    let (block, word, bit) = known::place(hash);
    let Some(block) = tables::known.get_ptr(block) else { return true };
    // SAFETY: a word of a live array element; volatile, because user space sets bits by single stores.
    unsafe { block.cast::<u64>().add(word as usize).read_volatile() & bit != 0 }
}

/// The first layer of a dialled address. The slot stays as it is while the program runs; see [`index`].
#[inline(always)]
pub(crate) fn find(dialled: &Dialled, hash: u64) -> Option<*const Frontend> {
    let tail = index::tail(dialled.port, dialled.protocol);
    let bucket = index::bucket(hash, config::bucket_shift());
    let block = tables::index.get_ptr(bucket / index::BLOCK)?.cast::<u32>();
    // SAFETY: a word of a live array element; volatile, because user space changes it by single stores.
    let word = unsafe { block.add((bucket % index::BLOCK) as usize).read_volatile() };
    if word & index::filter(hash) == 0 {
        return None;
    }
    // The processor foresees the way to here long before the word has come, and loads these lines meanwhile. Usually one is the
    // slot's, and where it is not, nothing depends on them.
    let home = index::home(bucket);
    for near in [home, home ^ 1] {
        if let Some(line) = tables::frontends.get_ptr(near) {
            // SAFETY: a live array element; volatile, so that the load stays although nobody uses it.
            let _ = unsafe { line.cast::<u64>().read_volatile() };
        }
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
