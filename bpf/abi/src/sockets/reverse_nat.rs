//! The record of a connected socket's translation: two words in a direct-mapped table.
//!
//! The slot is `cookie % size`, so the low 16 bits of the cookie are implied by the place (the table has at least 65,536
//! slots). The first word holds the next 32 bits of the cookie and the frontend's reference, the second the same reference,
//! 31 bits that cookie and real peer determine, and one for the kind of program that wrote it.
//!
//! Programs on any CPU write and read the two words at any time and in any order, without a lock. A reader believes only
//! two words with one reference, the first of its own socket and the second of its own socket and peer.
//! Words of two records with different references are never believed; with equal references they say
//! the same name. So nothing here depends on the order in which a CPU sees the stores of another.

/// Smallest table: below it the implied bits of the cookie would not be implied.
pub const MIN_SLOTS: u32 = 1 << 16;

const ID_BITS: u32 = 20;

/// Largest number of ids of frontends, one more than the largest id.
pub const MAX_IDS: u32 = 1 << ID_BITS;

/// Names a frontend id as it was used at one time: the id and the low 12 bits of its generation.
/// Never 0, because generations start at 1 and skip values whose low bits are 0.
#[inline(always)]
#[must_use]
pub const fn reference(id: u32, generation: u32) -> u32 {
    generation << ID_BITS | id & (MAX_IDS - 1)
}

/// The id of a reference.
#[inline(always)]
#[must_use]
pub const fn id(reference: u32) -> u32 {
    reference & (MAX_IDS - 1)
}

/// The generation after this one. It comes back after 4,095 uses of the id: by then the table of ids has been given away so often,
/// which is 16 million frontends at least with the usual 4,096 spare ids. A connection that outlives that many may be told the
/// name of another frontend, if it still has its record.
#[inline(always)]
#[must_use]
pub const fn next_generation(generation: u32) -> u32 {
    let next = (generation + 1) & (u32::MAX >> ID_BITS);
    if next == 0 { 1 } else { next }
}

/// The bit of the second word that tells a record of the host's programs from one of a pod's.
const HOST: u64 = 1 << 32;

/// 31 bits of a socket and its real peer; the last one is 0.
#[inline(always)]
#[must_use]
pub const fn digest(cookie: u64, address: &[u32; 4], port: u16) -> u32 {
    const K1: u64 = 0x9e37_79b9_7f4a_7c15;
    const K2: u64 = 0xc2b2_ae3d_27d4_eb4f;
    const K3: u64 = 0xd6e8_feb8_6659_fd93;
    let [low, high] =
        [super::index::pair(address[0], address[1]), super::index::pair(address[2], address[3])];
    let x = (cookie ^ low.wrapping_mul(K3)).wrapping_mul(K1);
    let x = (x ^ x >> 32 ^ high).wrapping_mul(K2);
    ((x ^ x >> 32 ^ port as u64).wrapping_mul(K3) >> 32) as u32 & !1
}

/// The two words of a record.
#[inline(always)]
#[must_use]
pub const fn record(cookie: u64, reference: u32, digest: u32, by_host: bool) -> [u64; 2] {
    let by = if by_host { HOST } else { 0 };
    [of(cookie) | reference as u64, (digest as u64) << 32 | by | reference as u64]
}

/// Whether a second word was written by the host's programs.
#[inline(always)]
#[must_use]
pub const fn is_by_host(word: u64) -> bool {
    word & HOST != 0
}

/// The part of the first word that names the socket.
#[inline(always)]
const fn of(cookie: u64) -> u64 {
    cookie >> 16 << 32
}

/// Whether the first word belongs to the socket.
#[inline(always)]
#[must_use]
pub const fn is_of(word: u64, cookie: u64) -> bool {
    (word ^ of(cookie)) >> 32 == 0 && word != 0
}

/// The frontend reference of a record, if it is of this socket and peer.
#[inline(always)]
#[must_use]
pub const fn find(record: [u64; 2], cookie: u64, digest: u32) -> Option<u32> {
    let [first, second] = record;
    let reference = first as u32;
    if is_of(first, cookie) && second & !HOST == ((digest as u64) << 32 | reference as u64) && reference != 0
    {
        Some(reference)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped;

    const COOKIE: u64 = 0x1234_5678_9abc;

    #[test]
    fn a_record_is_found_only_by_its_socket_and_peer() {
        let peer = |address: u32, port| digest(COOKIE, &mapped(address), port);
        let record = record(COOKIE, reference(7, 3), peer(0x0a00_0001, 0x5000), false);
        assert_eq!(find(record, COOKIE, peer(0x0a00_0001, 0x5000)), Some(reference(7, 3)));
        let other = 0x1234_5679_9abc;
        assert_eq!(find(record, other, digest(other, &mapped(0x0a00_0001), 0x5000)), None);
        assert_eq!(find(record, COOKIE, peer(0x0a00_0002, 0x5000)), None);
        assert_eq!(find(record, COOKIE, peer(0x0a00_0001, 0x5001)), None);
        assert_eq!(find([0, 0], 1, digest(1, &[0; 4], 0)), None);
        assert_eq!(find([record[0], 0], COOKIE, peer(0x0a00_0001, 0x5000)), None, "forgotten");
    }

    /// All pairs of a first and a second word out of records of several sockets that share a slot.
    #[test]
    fn words_of_different_records_never_give_a_wrong_name() {
        let cookies = [COOKIE, COOKIE + (1 << 18), COOKIE + (1 << 40)];
        let peers = [(mapped(1), 80), (mapped(2), 80), ([1, 2, 3, 4], 80), (mapped(1), 81)];
        let references = [reference(1, 1), reference(2, 1), reference(1, 2)];
        let mut records = std::vec![];
        for cookie in cookies {
            for (address, port) in peers {
                for reference in references {
                    records.push((cookie, (address, port), reference));
                }
            }
        }
        let word = |(cookie, (address, port), reference): (u64, ([u32; 4], u16), u32)| {
            record(cookie, reference, digest(cookie, &address, port), port == 81)
        };
        for first in &records {
            for second in &records {
                let torn = [word(*first)[0], word(*second)[1]];
                for cookie in cookies {
                    for (address, port) in peers {
                        if let Some(found) = find(torn, cookie, digest(cookie, &address, port)) {
                            assert_eq!((first.0, second.0), (cookie, cookie));
                            assert_eq!((first.2, second.2), (found, found));
                            assert_eq!(second.1, (address, port));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn generations_never_make_a_reference_zero() {
        let mut generation = 0;
        for _ in 0..10_000 {
            generation = next_generation(generation);
            assert_ne!(reference(0, generation), 0);
        }
    }

    extern crate std;
}
