//! Networks, unicast addresses and MAC addresses.

use std::{fmt, net::IpAddr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::field::Field;
use crate::bounds::MAX_NETWORKS;

/// Says how a network looks, for messages.
const NETWORK: &str = "must be a network such as 10.211.0.0/16 or fd00:10:211::/64";
const WRITE_NETWORK: &str = "write an address, a slash and the length of the prefix";

/// A network without host bits, of a family where one is asked for.
fn network(field: &Field<'_>) -> Option<IpNetwork> {
    let text = field.text()?;
    let Some(network) = parse(text) else { return field.reject(NETWORK, WRITE_NETWORK) };
    if network.ip() != network.network() {
        let meant = Masked(network);
        return field
            .reject("must be a network without host bits", format_args!("write {meant} if that is meant"));
    }
    Some(network)
}

/// `192.0.2.0/24`, and nothing that is not written like this: no netmask, no leading zero, no IPv4-mapped address.
fn parse(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.split_once('/')?;
    let is_number = prefix.bytes().all(|b| b.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
    let (address, prefix) =
        (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok().filter(|_| is_number)?);
    (address == address.to_canonical()).then(|| IpNetwork::new(address, prefix).ok())?
}

struct Masked(IpNetwork);

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.network(), self.0.prefix())
    }
}

/// `ipv4Pool`.
pub(super) fn ipv4_pool(field: &Field<'_>) -> Option<Ipv4Network> {
    match network(field)? {
        IpNetwork::V4(pool) if (8..=30).contains(&pool.prefix()) => {
            is_unicast(pool.ip().into()).then_some(pool).or_else(|| reject_pool(field))
        }
        _ => field.reject("must be an IPv4 network with a prefix from /8 to /30", "write such a network"),
    }
}

/// `ipv6Pool`.
pub(super) fn ipv6_pool(field: &Field<'_>) -> Option<Ipv6Network> {
    match network(field)? {
        IpNetwork::V6(pool) if (48..=126).contains(&pool.prefix()) => {
            is_unicast(pool.ip().into()).then_some(pool).or_else(|| reject_pool(field))
        }
        _ => field.reject("must be an IPv6 network with a prefix from /48 to /126", "write such a network"),
    }
}

fn reject_pool<T>(field: &Field<'_>) -> Option<T> {
    field.reject(
        "must be a network of unicast addresses: not unspecified, loopback, link-local or multicast",
        "write a private network that nothing else uses",
    )
}

/// Networks, each of any size; at least `least`.
pub(super) fn list(field: &Field<'_>, least: usize) -> Option<Vec<IpNetwork>> {
    let items = field.items()?;
    if items.len() < least {
        return field.report(format!("must have at least {least} network, found none; add one"));
    }
    field.at_most(MAX_NETWORKS, items.len(), "networks")?;
    let networks: Vec<_> = items.map(|item| network(&item)).collect();
    networks.into_iter().collect()
}

/// An address of one host in canonical form, so that two objects with one address have one text.
pub(super) fn unicast(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.text()?;
    let Ok(address) = text.parse::<IpAddr>() else {
        return field.reject(
            "must be an IP address such as 192.0.2.1 or 2001:db8::1, without prefix length or zone",
            "correct it",
        );
    };
    if address != address.to_canonical() || address.to_string() != text {
        let canonical = address.to_canonical();
        return field.reject("must be written in its canonical form", format_args!("write {canonical}"));
    }
    is_unicast(address).then_some(address).or_else(|| {
        field.reject(
            "must be a unicast address: not unspecified, loopback, link-local or multicast",
            "write an address that other hosts reach",
        )
    })
}

/// As `isGlobalUnicast` of CEL.
fn is_unicast(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !is_link_local
}

/// Six pairs of hexadecimal digits with colons; a single interface's, not a group's.
pub(super) fn mac(field: &Field<'_>) -> Option<[u8; 6]> {
    let text = field.text()?;
    let digit_pair = |pair: &str| {
        let is_pair = pair.len() == 2 && pair.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u8::from_str_radix(pair, 16).ok().filter(|_| is_pair)
    };
    let octets: Option<Vec<u8>> = text.split(':').map(digit_pair).collect();
    let Some(mac) = octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok()) else {
        return field.reject("must be a MAC address such as 66:0a:0b:0c:0d:0e in lower case", "correct it");
    };
    let is_group = mac.first().is_some_and(|first| first & 1 == 1);
    if is_group || mac == [0; 6] {
        return field.reject(
            "must be the MAC address of one interface: the second digit even, not all zero",
            "write another one",
        );
    }
    Some(mac)
}
