//! Types and arithmetic shared by the BPF programs and user space.
//!
//! Everything that both sides must agree on is here and nowhere else: keys, values, map names, flags, and the pure
//! functions that encode or check them. Each set of programs has a module with an ABI number, a pin directory and maps of
//! its own ([`sockets::ABI`], [`proxy::ABI`]), so that a new layout of one costs another nothing.
//!
//! Addresses are 16 bytes in network order, IPv4 as IPv4-mapped IPv6, held as four `u32` words as
//! the kernel's `struct bpf_sock_addr` hands them out. Ports are in network order. All padding is
//! explicit, so that every byte of a key or value is defined.
#![no_std]

#[cfg(feature = "model")]
extern crate std;

#[cfg(feature = "model")]
pub mod model;
pub mod proxy;
pub mod sockets;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// Third word of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), as stored in memory.
pub const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// Marks a type whose every bit pattern is a value, which has no padding and whose size is a multiple of four bytes:
/// `repr(C)`, integers and arrays of them only. Sealed, so that the promise is kept by the types of this crate alone.
pub trait Plain: sealed::Sealed + Copy + 'static {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($ty:ty = $size:literal),+ $(,)?) => {$(
        impl crate::sealed::Sealed for $ty {}
        impl crate::Plain for $ty {}
        // The sum of the fields: no implicit padding.
        const _: () = assert!(core::mem::size_of::<$ty>() == $size && $size % 4 == 0);
    )+};
}
pub(crate) use plain;

plain!(
    u32 = 4,
    u64 = 8,
    [u32; sockets::index::BLOCK as usize] = 64,
    [u64; sockets::known::BLOCK as usize] = 64
);

/// The words of an IPv4 address in network order, as an IPv4-mapped IPv6 address.
#[inline(always)]
#[must_use]
pub const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, MAPPED, address]
}

/// Whether the words are an IPv4-mapped IPv6 address.
#[inline(always)]
#[must_use]
pub const fn is_mapped(address: &[u32; 4]) -> bool {
    address[0] | address[1] == 0 && address[2] == MAPPED
}
