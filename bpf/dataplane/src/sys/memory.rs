//! Maps as memory: arrays that the kernel shares with user space (`BPF_F_MMAPABLE`, Linux 5.5).
//!
//! Programs and other processes use the memory at the same time. So it is only touched by atomic operations, whole
//! elements word by word; what a reader may make of a half-written element is for the callers to settle.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use balancing_abi::Plain;

use super::{invalid, map_info};

/// The elements of an array map.
#[derive(Debug)]
pub(crate) struct Memory<T> {
    start: NonNull<AtomicU64>,
    /// Elements.
    len: u32,
    /// Words of 8 bytes from one element to the next, as the kernel lays arrays out.
    stride: usize,
    writable: bool,
    element: PhantomData<T>,
}

// SAFETY: it owns its mapping and hands out nothing but atomic accesses.
unsafe impl<T> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Memory<T> {}

impl<T: Plain> Memory<T> {
    /// Maps an array. Without `writable` stores panic.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` when the map's values are not of the type's size.
    pub(crate) fn open(map: BorrowedFd<'_>, writable: bool) -> io::Result<Self> {
        let info = map_info(map)?;
        if info.value_size as usize != size_of::<T>() {
            return Err(invalid("the map's values have another size"));
        }
        Self::new(info.max_entries, writable, map.as_raw_fd(), libc::MAP_SHARED)
    }

    /// Memory that no map is behind.
    #[cfg(test)]
    pub(crate) fn anonymous(len: u32) -> Self {
        Self::new(len, true, -1, libc::MAP_SHARED | libc::MAP_ANONYMOUS).unwrap()
    }

    /// Memory that others can map, too.
    #[cfg(test)]
    pub(crate) fn of_file(file: BorrowedFd<'_>, len: u32) -> Self {
        nix::unistd::ftruncate(file, bytes(len, size_of::<T>().div_ceil(8)) as i64).unwrap();
        Self::new(len, true, file.as_raw_fd(), libc::MAP_SHARED).unwrap()
    }

    fn new(len: u32, writable: bool, fd: i32, flags: i32) -> io::Result<Self> {
        let stride = size_of::<T>().div_ceil(8);
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let bytes = bytes(len, stride);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| invalid("mapped at address zero"))?;
        Ok(Self { start, len, stride, writable, element: PhantomData })
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// A copy of an element, `None` beyond the end. It is whole only if nobody writes it at the same time.
    pub(crate) fn read(&self, index: u32) -> Option<T> {
        if index >= self.len {
            return None;
        }
        let mut copy = std::mem::MaybeUninit::<T>::uninit();
        let words = copy.as_mut_ptr().cast::<u32>();
        for word in 0..size_of::<T>() / 4 {
            let value = self.word(index, 4 * word).load(Ordering::Relaxed);
            // SAFETY: within the copy, whose size is a multiple of 4; it may be less aligned than words are.
            unsafe { words.add(word).write_unaligned(value) };
        }
        // SAFETY: every byte is written, and a `Plain` type has no invalid ones.
        Some(unsafe { copy.assume_init() })
    }

    /// Writes an element.
    ///
    /// # Panics
    /// Beyond the end, or when the memory is not writable.
    pub(crate) fn write(&mut self, index: u32, value: &T) {
        let words = std::ptr::from_ref(value).cast::<u32>();
        for word in 0..size_of::<T>() / 4 {
            // SAFETY: within the value, whose size is a multiple of 4 and which has no padding.
            let value = unsafe { words.add(word).read_unaligned() };
            self.writable_word(index, 4 * word).store(value, Ordering::Relaxed);
        }
    }

    /// The 4 bytes at an offset of an element.
    pub(crate) fn load32(&self, index: u32, offset: usize) -> u32 {
        self.word(index, offset).load(Ordering::Acquire)
    }

    /// Replaces 4 bytes by one store. Whoever sees it sees all that was written before.
    pub(crate) fn store32(&mut self, index: u32, offset: usize, value: u32) {
        self.writable_word(index, offset).store(value, Ordering::Release);
    }

    /// The 8 bytes at an offset of an element.
    pub(crate) fn load64(&self, index: u32, offset: usize) -> u64 {
        self.long(index, offset).load(Ordering::Acquire)
    }

    /// Replaces 8 bytes by one store. Whoever sees it sees all that was written before.
    pub(crate) fn store64(&mut self, index: u32, offset: usize, value: u64) {
        assert!(self.writable, "a store to a map that is only read");
        self.long(index, offset).store(value, Ordering::Release);
    }

    fn writable_word(&self, index: u32, offset: usize) -> &AtomicU32 {
        assert!(self.writable, "a store to a map that is only read");
        self.word(index, offset)
    }

    fn word(&self, index: u32, offset: usize) -> &AtomicU32 {
        assert!(
            index < self.len && offset.is_multiple_of(4) && offset < 8 * self.stride,
            "{index} + {offset}"
        );
        // SAFETY: within the mapping, aligned, and only accessed by atomic operations.
        unsafe { &*self.start.as_ptr().add(index as usize * self.stride).cast::<AtomicU32>().add(offset / 4) }
    }

    fn long(&self, index: u32, offset: usize) -> &AtomicU64 {
        assert!(
            index < self.len && offset.is_multiple_of(8) && offset < 8 * self.stride,
            "{index} + {offset}"
        );
        // SAFETY: as above.
        unsafe { &*self.start.as_ptr().add(index as usize * self.stride + offset / 8) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives the value.
        let _unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), bytes(self.len, self.stride)) };
    }
}

fn bytes(len: u32, stride: usize) -> usize {
    8 * stride * len as usize
}

#[cfg(test)]
mod tests {
    use balancing_abi::sockets::{Name, Window};

    use super::*;

    #[test]
    fn elements_come_back_as_they_were_written() {
        let mut memory = Memory::<Name>::anonymous(3);
        let name = Name { address: [1, 2, 3, 4], port: 5, protocol: 6, pad: 0, generation: 7 };
        memory.write(1, &name);
        assert_eq!((memory.read(1), memory.read(3)), (Some(name), None));
        assert_eq!(memory.read(0).map(|name| name.generation), Some(0));
        assert_eq!(memory.load32(1, 4), 2);
        memory.store64(1, 16, 9 << 32);
        assert_eq!(memory.read(1).map(|name| (name.port, name.generation)), Some((0, 9)));
    }

    #[test]
    #[should_panic(expected = "2 + 0")]
    fn nothing_is_written_beyond_the_end() {
        Memory::<Window>::anonymous(2).write(2, &Window { grants: 1, owner: 1 });
    }
}
