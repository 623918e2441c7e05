//! The index: from a dialled address to the slot of its frontend.
//!
//! A hash table with chains. A bucket is one word: the slot of the first frontend of its chain, and a small Bloom filter of
//! the hashes in the chain, so that an address which is no frontend is settled by that word alone nearly
//! always. The chain goes on through [`super::Frontend::chain`].
//!
//! One thread of user space writes, programs read without a lock. Each change is one store, of a bucket's word or of one
//! `chain`: a new frontend is complete and already leads to the chain's rest before a word names it; a replaced or removed one
//! still leads on for programs that stand on it, and its slot is left alone until a grace period is over. A program
//! reaches each slot through the address it has just loaded, and every architecture orders a load after
//! the load that its address depends on: so it sees all that was written before the store that named the slot.

use super::FrontendKey;

/// Bits of a bucket's word that name a slot; the rest is the filter.
const SLOT_BITS: u32 = 20;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
const FILTER_BITS: u64 = (u32::BITS - SLOT_BITS) as u64;

/// Largest number of slots.
pub const MAX_SLOTS: u32 = 1 << SLOT_BITS;

/// Frontends that one bucket can have. With a random seed a bucket of two per frontend never comes near it.
pub const CHAIN: u32 = 24;

/// Words in one element of the array that holds the buckets: the kernel rounds elements up to 8 bytes.
pub const BLOCK: u32 = 16;

/// What the hash multiplies with: odd numbers that nobody outside knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// For the first half of the address.
    pub low: u64,
    /// For the second half.
    pub high: u64,
    /// For port and protocol.
    pub tail: u64,
}

impl Seeds {
    /// The factors that follow from one random number.
    #[must_use]
    pub const fn from(seed: u64) -> Self {
        Self { low: mix(seed, 1) | 1, high: mix(seed, 2) | 1, tail: mix(seed, 3) | 1 }
    }
}

/// The n-th number of the generator SplitMix64.
#[inline(always)]
#[must_use]
pub const fn mix(seed: u64, n: u64) -> u64 {
    let x = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The buckets for a number of frontends: a power of two.
#[must_use]
pub const fn buckets(frontends: u32) -> u32 {
    let wanted = (2 * frontends).next_power_of_two();
    if wanted < BLOCK { BLOCK } else { wanted }
}

/// Port, protocol and padding as the one word that they are in memory.
#[inline(always)]
#[must_use]
pub const fn tail(port: u16, protocol: u32) -> u32 {
    port as u32 | protocol << 16
}

/// Two neighbouring words as one.
#[inline(always)]
#[must_use]
pub const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The hash of an address and a [`tail`]: a sum of products, folded and multiplied once more. Without the second step addresses
/// and ports that form a grid could be a grid in the table, too, and crowd a few buckets.
#[inline(always)]
#[must_use]
pub const fn hash(address: &[u32; 4], tail: u32, seeds: &Seeds) -> u64 {
    let [low, high] = [pair(address[0], address[1]), pair(address[2], address[3])];
    let sum = low.wrapping_mul(seeds.low).wrapping_add(high.wrapping_mul(seeds.high));
    let sum = sum.wrapping_add((tail as u64).wrapping_mul(seeds.tail));
    (sum ^ sum >> 32).wrapping_mul(seeds.low)
}

/// The hash of a key.
#[must_use]
pub const fn hash_key(key: &FrontendKey, seeds: &Seeds) -> u64 {
    hash(&key.address, tail(key.port, key.protocol as u32), seeds)
}

/// What [`bucket`] needs to know of the number of buckets.
#[must_use]
pub const fn bucket_shift(buckets: u32) -> u32 {
    u32::BITS - buckets.trailing_zeros()
}

/// The bucket of a hash: its uppermost bits.
#[inline(always)]
#[must_use]
pub const fn bucket(hash: u64, shift: u32) -> u32 {
    (hash >> 32) as u32 >> shift
}

/// Where the slot of the only frontend of a bucket is likely to be: user space puts it there, or beside it, when the place is free.
/// A program can load it together with the bucket's word instead of after it. Two buckets share a place.
#[inline(always)]
#[must_use]
pub const fn home(bucket: u32) -> u32 {
    bucket >> 1
}

/// The bit of a hash in the filter of its bucket's word.
#[inline(always)]
#[must_use]
pub const fn filter(hash: u64) -> u32 {
    // Hashes of one bucket have their uppermost bits in common.
    let mixed = (hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    let bit = (mixed * FILTER_BITS) >> 16;
    1 << (SLOT_BITS + bit as u32)
}

/// The slot that a bucket's word names.
#[inline(always)]
#[must_use]
pub const fn slot(word: u32) -> u32 {
    word & SLOT_MASK
}

/// The word that names a slot as the first of a chain whose hashes have these bits.
#[must_use]
pub const fn word(slot: u32, filter: u32) -> u32 {
    slot & SLOT_MASK | filter & !SLOT_MASK
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use super::*;
    use crate::{UDP, mapped};

    #[test]
    fn addresses_in_a_row_spread_evenly() {
        for seed in [0, 1, 2, 3, 4, 0x0123_4567_89ab_cdef] {
            let seeds = Seeds::from(seed);
            let frontends = 60_000;
            let shift = bucket_shift(buckets(frontends));
            let (mut chains, mut filters) = (vec![0_u32; buckets(frontends) as usize], [0_u32; 12]);
            for i in 0..frontends {
                let hash = hash(&mapped((0x0a60_0000 + i).to_be()), tail(53, UDP.into()), &seeds);
                chains[bucket(hash, shift) as usize] += 1;
                filters[filter(hash).trailing_zeros() as usize - 20] += 1;
            }
            let longest = chains.iter().max();
            assert!(longest < Some(&(CHAIN / 2)), "{longest:?} frontends in one bucket");
            assert!(filters.iter().all(|n| (3000..7000).contains(n)), "{filters:?}");
        }
    }

    #[test]
    fn grids_of_addresses_and_ports_spread_evenly() {
        let shift = bucket_shift(buckets(65_536));
        for (addresses, ports) in [(1_000, 60), (512, 100), (256, 250), (2_000, 30), (128, 500)] {
            for seed in 0..40 {
                let seeds = Seeds::from(seed);
                let mut chains = vec![0_u8; buckets(65_536) as usize];
                for i in 0..addresses * ports {
                    let (address, port) =
                        (mapped((0x0a60_0000_u32 + i / ports).to_be()), (1 + i % ports) as u16);
                    let hash = hash(&address, tail(port.to_be(), UDP.into()), &seeds);
                    chains[bucket(hash, shift) as usize] += 1;
                }
                let longest = chains.iter().max();
                assert!(longest < Some(&14), "{addresses} x {ports}, seed {seed}: {longest:?} in one bucket");
            }
        }
    }

    #[test]
    fn every_part_of_a_key_changes_the_hash() {
        let seeds = Seeds::from(7);
        let base = hash(&[1, 2, 3, 4], tail(5, 6), &seeds);
        for other in [
            hash(&[0, 2, 3, 4], tail(5, 6), &seeds),
            hash(&[1, 0, 3, 4], tail(5, 6), &seeds),
            hash(&[1, 2, 0, 4], tail(5, 6), &seeds),
            hash(&[1, 2, 3, 0], tail(5, 6), &seeds),
            hash(&[1, 2, 3, 4], tail(0, 6), &seeds),
            hash(&[1, 2, 3, 4], tail(5, 0), &seeds),
            hash(&[1, 2, 3, 4], tail(5, 6), &Seeds::from(8)),
        ] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn a_word_holds_slot_and_filter() {
        let hash = hash(&[1, 2, 3, 4], 5, &Seeds::from(6));
        let word = word(MAX_SLOTS - 1, filter(hash));
        assert_eq!((slot(word), word & filter(hash)), (MAX_SLOTS - 1, filter(hash)));
        assert_eq!(buckets(65_536), 131_072);
        assert_eq!(buckets(1), BLOCK);
    }
}
