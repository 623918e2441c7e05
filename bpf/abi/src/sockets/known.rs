//! Addresses that are or were backends: a bit set with false positives and without false negatives.
//!
//! Only sockets that talk to such an address can have been redirected to it. So one load settles nearly every call of the
//! machine that is none of ours: datagrams of servers, names of peers, sends and connects past every frontend.
//! A bit is set before the first frontend leads to the backend, and never cleared: connections outlive backends.
//! When many bits are set, calls only pay for a look at what the socket has.

/// Bits: 256 kB. A hundred thousand addresses leave a chance of one in twenty for any other to pay for the look.
pub const BITS: u32 = 1 << 21;

/// Words of 8 bytes in one element of the array.
pub const BLOCK: u32 = 8;

/// Elements of the array.
pub const BLOCKS: u32 = BITS / 64 / BLOCK;

/// Element, word and bit of a hash ([`super::index::hash`]).
#[inline(always)]
#[must_use]
pub const fn place(hash: u64) -> (u32, u32, u64) {
    let bit = (hash >> 32) as u32 >> (u32::BITS - BITS.trailing_zeros());
    (bit / (64 * BLOCK), bit / 64 % BLOCK, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_has_a_place() {
        assert_eq!(place(0), (0, 0, 1));
        assert_eq!(place(u64::MAX), (BLOCKS - 1, BLOCK - 1, 1 << 63));
        assert_eq!(place(1 << 43), (0, 0, 2));
    }
}
