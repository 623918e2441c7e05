//! The record of a connected socket's translation: 16 bytes in a direct-mapped table.
//!
//! The slot is `cookie % size`, so the low 16 bits of the cookie are implied by the place (the
//! table has at least 65,536 slots) and their room holds the upper bits of the backend's digest.
//! A record counts only when cookie and real peer match: for IPv4 the digest *is* the address and
//! port, for IPv6 it is 48 bits of them.

/// Smallest table: below it the implied bits of the cookie would not be implied.
pub const MIN_SLOTS: u32 = 1 << 16;

const ID_BITS: u32 = 20;
const LOW: u64 = 0xffff;

/// Largest number of frontends of both layers together, one more than the largest id.
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

/// The generation after this one.
#[inline(always)]
#[must_use]
pub const fn next_generation(generation: u32) -> u32 {
    let next = (generation + 1) & (u32::MAX >> ID_BITS);
    if next == 0 { 1 } else { next }
}

/// 48 bits of a peer; exact for IPv4.
#[inline(always)]
#[must_use]
pub const fn digest(address: &[u32; 4], port: u16) -> u64 {
    let exact = (address[3] as u64) << 16 | port as u64;
    if crate::is_mapped(address) {
        return exact;
    }
    let high = (address[0] as u64) << 32 | address[1] as u64;
    let mixed = (high ^ (address[2] as u64).rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    exact ^ mixed >> 16
}

/// The two words of a record.
#[inline(always)]
#[must_use]
pub const fn record(cookie: u64, reference: u32, digest: u64) -> [u64; 2] {
    [cookie & !LOW | digest >> 32, (reference as u64) << 32 | digest & 0xffff_ffff]
}

/// Whether the first word belongs to the socket.
#[inline(always)]
#[must_use]
pub const fn is_of(word: u64, cookie: u64) -> bool {
    (word ^ cookie) & !LOW == 0
}

/// The frontend reference of a record, if it is of this socket and peer.
#[inline(always)]
#[must_use]
pub const fn find(record: [u64; 2], cookie: u64, digest: u64) -> Option<u32> {
    let [first, second] = record;
    if first == (cookie & !LOW | digest >> 32) && second & 0xffff_ffff == digest & 0xffff_ffff && second != 0
    {
        Some((second >> 32) as u32)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped;

    #[test]
    fn a_record_is_found_only_by_its_socket_and_peer() {
        let peer = digest(&mapped(0x0a00_0001), 0x5000);
        let record = record(0x1234_5678_9abc, reference(7, 3), peer);
        assert_eq!(find(record, 0x1234_5678_9abc, peer), Some(reference(7, 3)));
        assert_eq!(find(record, 0x1234_5679_9abc, peer), None);
        assert_eq!(find(record, 0x1234_5678_9abc, digest(&mapped(0x0a00_0002), 0x5000)), None);
        assert_eq!(find(record, 0x1234_5678_9abc, digest(&mapped(0x0a00_0001), 0x5001)), None);
        assert_eq!(find([0, 0], 1, 0), None);
    }

    #[test]
    fn digests_of_ipv4_are_exact_and_fit() {
        assert_eq!(digest(&mapped(0xffff_ffff), 0xffff), (1 << 48) - 1);
        assert!(digest(&[0xfd00_0000, 1, 2, 0xffff_ffff], 1) < 1 << 48);
        assert_ne!(digest(&[1, 0, 0, 1], 80), digest(&[2, 0, 0, 1], 80));
    }

    #[test]
    fn generations_never_make_a_reference_zero() {
        let mut generation = 0;
        for _ in 0..10_000 {
            generation = next_generation(generation);
            assert_ne!(reference(0, generation), 0);
        }
    }
}
