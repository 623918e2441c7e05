//! Reading a hash map many elements at a time, and going on later. Kernel 5.6.

use std::{io, mem::MaybeUninit, os::fd::BorrowedFd};

use balancing_abi::Plain;

use super::{BatchAttr, MAP_LOOKUP_BATCH, bpf, invalid, map_info, raw};

/// Elements that one call reads at most; a bucket that holds more is refused by the kernel.
const BATCH: u32 = 4096;

/// How far the reading of a map has come.
#[derive(Debug, Default)]
pub(crate) struct Position {
    /// The kernel's word for it; `None` = at the begin.
    at: Option<u64>,
}

/// Reads the next elements of a map. `None` for the position's begin again: it was read to its end. Elements that come or go meanwhile
/// may be missed or seen twice.
///
/// # Errors
/// The kernel's; `InvalidData` when the map's elements are of another size.
pub(crate) fn next<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    position: &mut Position,
) -> io::Result<(Vec<(K, V)>, bool)> {
    let shape = map_info(map)?;
    if shape.key_size as usize != size_of::<K>() || shape.value_size as usize != size_of::<V>() {
        return Err(invalid("the map's elements have another size"));
    }
    // Values lie at multiples of 8.
    let stride = size_of::<V>().next_multiple_of(8);
    let mut keys = vec![0_u8; BATCH as usize * size_of::<K>()];
    let mut values = vec![0_u8; BATCH as usize * stride];
    // The kernel's word for a position has 4 bytes, and room is made for a key.
    let (from, mut to) = (position.at.unwrap_or(0), [0_u64; 16]);
    let mut attr = BatchAttr {
        in_batch: if position.at.is_some() { (&raw const from) as u64 } else { 0 },
        out_batch: to.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: BATCH,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the buffers have room for the announced number of elements and for a position, and outlive the call.
    let ended = match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(_) => false,
        // The end; what came before it counts.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    position.at = if ended { None } else { Some(to[0]) };
    let elements = (0..attr.count as usize)
        .filter_map(|index| Some((copy(&keys, index * size_of::<K>())?, copy(&values, index * stride)?)));
    Ok((elements.collect(), ended))
}

/// The value at an offset.
fn copy<T: Plain>(bytes: &[u8], offset: usize) -> Option<T> {
    let bytes = bytes.get(offset..offset + size_of::<T>())?;
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as many bytes as the type has, all written; a `Plain` type has no invalid ones.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
        Some(value.assume_init())
    }
}
