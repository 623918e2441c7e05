//! The words of the fabric: what an administrator declares and what members tell each other.
//!
//! Plain data; nothing here knows a kernel.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use thiserror::Error;

/// One fabric, as its `TunnelFabric` declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// Its name, which the alias of our devices carries.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port that members listen on.
    pub port: u16,
    /// Where IPv4 tunnel addresses come from.
    pub ipv4_pool: Option<Ipv4Network>,
    /// Where IPv6 tunnel addresses come from.
    pub ipv6_pool: Option<Ipv6Network>,
    /// MTU of the device; `None` is the underlay's minus the overhead.
    pub mtu: Option<u32>,
    /// Who may send to the port.
    pub accept_from: AcceptFrom,
}

impl Fabric {
    /// The pools that it has, IPv4 first.
    pub fn pools(&self) -> impl Iterator<Item = IpNetwork> + use<> {
        let (v4, v6) = (self.ipv4_pool.map(IpNetwork::V4), self.ipv6_pool.map(IpNetwork::V6));
        v4.into_iter().chain(v6)
    }

    /// The pool of an address's family.
    #[must_use]
    pub fn pool_for(&self, address: IpAddr) -> Option<IpNetwork> {
        self.pools().find(|pool| pool.is_ipv4() == address.is_ipv4())
    }
}

/// Who may send to the tunnel port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceptFrom {
    /// Members of the fabric, each with its own tunnel addresses only.
    #[default]
    Members,
    /// Every host that reaches the port.
    Anyone,
}

/// A member: a node, or a host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `node.<node>` or `host.<externalhost>`.
    pub name: String,
    /// Addresses that peers dial.
    pub underlay: Pair,
    /// UDP port that it listens on; 0 is the fabric's.
    pub port: u16,
    /// Of its tunnel device.
    pub mac: Mac,
    /// Its tunnel addresses.
    pub addresses: Pair,
    /// What fits into its tunnel device; 0 is not said.
    pub mtu: u32,
}

/// At most one address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Pair {
    /// The addresses that it has, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Whether it has no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Whether one of its addresses is this one.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.iter().any(|own| own == address)
    }
}

impl FromIterator<IpAddr> for Pair {
    /// The first address of each family.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().fold(Self::default(), |pair, address| match address {
            IpAddr::V4(v4) => Self { v4: pair.v4.or(Some(v4)), ..pair },
            IpAddr::V6(v6) => Self { v6: pair.v6.or(Some(v6)), ..pair },
        })
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// Text that is no Ethernet address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no Ethernet address: write six bytes as in 66:0a:1b:2c:3d:4e")]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let byte = |part: &str| {
            let hex = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| BadMac(text.to_owned()))
    }
}

/// FNV-1a of 64 bits, then mixed so that every bit of the input reaches every bit kept. It must never change.
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let folded = bytes.into_iter().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let mixed = (folded ^ (folded >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_what_it_writes_and_nothing_else() {
        let mac = Mac([0x66, 0x25, 0x4b, 0x7a, 0x06, 0x4a]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in
            ["", "66:00:00:00:00", "66:00:00:00:00:00:00", "6:00:00:00:00:00", "+6:00:00:00:00:00", "gg:0:0"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pair_takes_the_first_of_each_family() {
        let addresses = ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let pair: Pair = addresses.into_iter().collect();
        assert_eq!(pair.iter().collect::<Vec<_>>(), addresses[..2]);
        assert!(pair.contains(addresses[0]) && !pair.contains(addresses[2]));
    }
}
