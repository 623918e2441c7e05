//! Which tunnel address a member tries to claim, and what a claim is named.
//!
//! The API server is the allocator: the name of a claim is its address, so creating the claim is the lock. A member begins at
//! the hash of its identity, where in a pool that is not nearly full the first try is mostly free, and goes on to the
//! next address from there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::objects::{MemberKind, fingerprint};

/// Every address of the pool is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("all {} addresses of the pool {pool} are taken; add members to a fabric with a larger pool", capacity(*.pool))]
pub struct Exhausted {
    /// The pool.
    pub pool: IpNetwork,
}

/// The addresses of a pool in the order in which one member tries them, each once.
#[derive(Debug, Clone)]
pub struct Candidates {
    pool: IpNetwork,
    next: u128,
    left: u128,
}

/// Name of the claim of an address: `10-211-3-7`; IPv6 in full, eight groups of four digits.
#[must_use]
pub fn claim_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.octets().map(|octet| octet.to_string()).join("-"),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:04x}")).join("-"),
    }
}

/// How many members a pool has room for. Its first two addresses and its last one are nobody's.
#[must_use]
pub fn capacity(pool: IpNetwork) -> u128 {
    let bits = if pool.is_ipv4() { 32 } else { 128 };
    let size = 1_u128.checked_shl(bits - u32::from(pool.prefix()));
    // Of an IPv6 network without any prefix the size has no number.
    size.map_or(u128::MAX, |size| size.saturating_sub(3))
}

/// The candidates of the Node or ExternalHost of this name.
#[must_use]
pub fn candidates(pool: IpNetwork, kind: MemberKind, name: &str) -> Candidates {
    let left = capacity(pool);
    Candidates { pool, next: hash(kind, name).checked_rem(left).unwrap_or(0), left }
}

/// The first candidate that is not taken.
///
/// # Errors
///
/// When there is none.
pub fn first_free(
    pool: IpNetwork,
    kind: MemberKind,
    name: &str,
    is_taken: impl Fn(IpAddr) -> bool,
) -> Result<IpAddr, Exhausted> {
    candidates(pool, kind, name).find(|address| !is_taken(*address)).ok_or(Exhausted { pool })
}

impl Iterator for Candidates {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        self.left = self.left.checked_sub(1)?;
        let offset = self.next + 2;
        self.next = (self.next + 1) % capacity(self.pool);
        Some(match self.pool {
            IpNetwork::V4(pool) => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                Ipv4Addr::from_bits(pool.network().to_bits().saturating_add(offset)).into()
            }
            IpNetwork::V6(pool) => {
                Ipv6Addr::from_bits(pool.network().to_bits().saturating_add(offset)).into()
            }
        })
    }
}

/// The same everywhere and always: the fingerprint, twice, each with its bits well mixed (the finaliser of SplitMix64).
fn hash(kind: MemberKind, name: &str) -> u128 {
    let number = fingerprint(kind.kind(), name);
    u128::from(mix(number)) << 64 | u128::from(mix(number ^ u64::MAX))
}

fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pool(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn of(text: &str, name: &str) -> Candidates {
        candidates(pool(text), MemberKind::Node, name)
    }

    #[test]
    fn claims_are_named_after_their_address() {
        for (address, name) in [
            ("10.211.3.7", "10-211-3-7"),
            ("fd00::1", "fd00-0000-0000-0000-0000-0000-0000-0001"),
            ("2001:db8:0:abcd::", "2001-0db8-0000-abcd-0000-0000-0000-0000"),
        ] {
            assert_eq!(claim_name(address.parse().unwrap()), name);
        }
    }

    #[test]
    fn every_address_is_tried_once_but_the_reserved_ones() {
        for (text, all) in [
            ("10.0.0.0/30", &["10.0.0.2"][..]),
            ("10.0.0.8/29", &["10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"]),
            ("fd00::/126", &["fd00::2"]),
        ] {
            let found: Vec<_> = of(text, "n1").collect();
            let set: BTreeSet<IpAddr> = found.iter().copied().collect();
            assert_eq!(set, all.iter().map(|ip| ip.parse().unwrap()).collect(), "{text}");
            assert_eq!((found.len() as u128, capacity(pool(text))), (all.len() as u128, all.len() as u128));
        }
        let found: BTreeSet<_> = of("10.211.0.0/16", "n1").collect();
        assert_eq!(found.len(), (1 << 16) - 3);
        assert!(found.iter().all(|ip| pool("10.211.0.0/16").contains(*ip)));
    }

    #[test]
    fn the_first_candidate_is_always_the_same_and_depends_on_the_identity() {
        let first = |kind, name| candidates(pool("10.211.0.0/16"), kind, name).next().unwrap().to_string();
        // Members of every version must agree, or a restart would look for another address.
        assert_eq!(first(MemberKind::Node, "n1"), "10.211.134.211");
        assert_ne!(first(MemberKind::Node, "n1"), first(MemberKind::ExternalHost, "n1"));
        assert_ne!(first(MemberKind::Node, "n1"), first(MemberKind::Node, "n2"));
        let far = of("fd00:10:211::/48", "n1").next().unwrap();
        assert!(pool("fd00:10:211::/48").contains(far));
        assert!(!pool("fd00:10:211::/64").contains(far), "the whole pool is used: {far}");
    }

    #[test]
    fn a_thousand_members_of_a_16_need_hardly_more_than_a_thousand_tries() {
        let (mut taken, mut tries) = (BTreeSet::new(), 0);
        for n in 0..1000 {
            let free = of("10.211.0.0/16", &format!("node-{n}")).position(|ip| taken.insert(ip)).unwrap();
            tries += free + 1;
        }
        assert!(tries < 1030, "{tries}");
    }

    #[test]
    fn a_full_pool_is_exhausted() {
        let pool = pool("10.0.0.0/29");
        let mut taken = BTreeSet::new();
        for n in 0..5 {
            let free = first_free(pool, MemberKind::Node, &format!("n{n}"), |ip| taken.contains(&ip));
            assert!(taken.insert(free.unwrap()));
        }
        let full = first_free(pool, MemberKind::Node, "n5", |ip| taken.contains(&ip)).unwrap_err();
        assert!(full.to_string().starts_with("all 5 addresses of the pool 10.0.0.0/29 are taken"), "{full}");
        let one = "10.0.0.4".parse().unwrap();
        assert_eq!(first_free(pool, MemberKind::Node, "n5", |ip| ip != one), Ok(one));
    }
}
