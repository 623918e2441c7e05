//! The MAC of a member's tunnel device. It follows from names, so nobody can have another member's.

use crate::objects::{TunnelNode, fnv};

/// First byte: locally administered, unicast.
const PREFIX: u8 = 0x66;

/// The MAC of the member with that TunnelNode: the same on every start, so that peers need not learn it again. It must never change.
#[must_use]
pub fn mac_of(fabric: &str, member: &str) -> [u8; 6] {
    // A zero byte stands in no name, so two different pairs never read alike.
    let number = fnv(fabric.bytes().chain([0]).chain(member.bytes()));
    let mixed = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let [_, _, _, b, c, d, e, f] = (mixed ^ (mixed >> 33)).to_be_bytes();
    [PREFIX, b, c, d, e, f]
}

/// Whether a valid TunnelNode has the MAC that its name gives. Agents write no other; one in a directory may have any.
#[must_use]
pub fn has_own_mac(member: &TunnelNode) -> bool {
    member.spec.as_ref().is_ok_and(|spec| spec.mac == mac_of(&spec.fabric, &member.name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_mac_is_stable_local_unicast_and_differs_by_fabric_and_member() {
        let mac = mac_of("default", "node.n1");
        assert_eq!(mac, [0x66, 0x25, 0x4b, 0x7a, 0x06, 0x4a], "peers remember it: it must not change");
        assert_eq!(mac[0] & 0b11, 0b10);
        assert_ne!(mac, mac_of("default", "node.n2"));
        assert_ne!(mac, mac_of("other", "node.n1"));
        assert_ne!(mac_of("a", "bc"), mac_of("ab", "c"));
        let many: BTreeSet<_> = (0..10_000).map(|n| mac_of("default", &format!("node.n{n}"))).collect();
        assert_eq!(many.len(), 10_000);
    }
}
