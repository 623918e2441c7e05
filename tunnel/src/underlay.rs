//! Which local address peers dial.
//!
//! Pure, and never a guess: what was not named and is no address of the Node is not taken.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::{
    Pair,
    facts::{Address, Facts, Scope},
    words::list,
};

/// What an administrator wishes the underlay to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Networks of which the address is; earlier ones are preferred.
    pub cidrs: Vec<IpNetwork>,
    /// Names of interfaces that have it, `*` for any text; earlier ones are preferred.
    pub interfaces: Vec<String>,
    /// Which families.
    pub family: Family,
}

/// Families of the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both, where there are addresses.
    #[default]
    Auto,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Family {
    fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Auto => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Auto => "",
            Self::Ipv4 => "IPv4 ",
            Self::Ipv6 => "IPv6 ",
        }
    }
}

/// Why there is no address that peers could dial.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NoUnderlay {
    /// A wish was stated and nothing meets it.
    #[error(
        "no {family}address of this host matches spec.underlay ({wish}); it has {have}: \
         correct cidrs or interfaces of the TunnelFabric, or give the host such an address"
    )]
    Unmet {
        /// The family, with a blank behind it.
        family: &'static str,
        /// What was wished.
        wish: String,
        /// What the host has.
        have: String,
    },
    /// No wish, and no address of the Node is on a link.
    #[error(
        "none of the Node's {family}addresses ({node}) is on a link of this host, which has {have}: \
         name the underlay by spec.underlay.cidrs or interfaces of the TunnelFabric"
    )]
    NotHere {
        /// The family, with a blank behind it.
        family: &'static str,
        /// The Node's addresses.
        node: String,
        /// What the host has.
        have: String,
    },
}

/// The addresses that peers dial: of the wished networks, else of the wished interfaces, else, when neither was
/// wished, of the Node.
///
/// # Errors
/// When there is none; a wish that nothing meets is not answered by something else.
pub fn choose(wish: &Underlay, node_ips: &[IpAddr], facts: &Facts) -> Result<Pair, NoUnderlay> {
    let mut candidates: Vec<&Address> =
        facts.addresses.iter().filter(|address| usable(address, wish.family, facts)).collect();
    let present: Vec<IpAddr> = facts
        .links
        .iter()
        .filter(|link| link.is_ours())
        .filter_map(|link| link.vxlan.as_ref()?.local)
        .collect();
    // The Node's own address first, then the one in use, so that a further address moves nothing.
    candidates.sort_by_key(|address| {
        (!node_ips.contains(&address.ip), !present.contains(&address.ip), address.link, address.ip)
    });
    let by_network = wish
        .cidrs
        .iter()
        .flat_map(|network| candidates.iter().filter(move |address| network.contains(address.ip)));
    let by_name = wish.interfaces.iter().flat_map(|pattern| {
        candidates.iter().filter(move |address| matches(pattern, &facts.name(address.link)))
    });
    let wished = !wish.cidrs.is_empty() || !wish.interfaces.is_empty();
    let of_the_node = candidates
        .iter()
        .filter(|address| !wished && node_ips.contains(&address.ip))
        .map(|address| address.ip);
    for found in [
        by_network.map(|address| address.ip).collect::<Pair>(),
        by_name.map(|address| address.ip).collect(),
        of_the_node.collect(),
    ] {
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(refusal(wish, node_ips, facts, &candidates))
}

fn refusal(wish: &Underlay, node_ips: &[IpAddr], facts: &Facts, candidates: &[&Address]) -> NoUnderlay {
    let family = wish.family.word();
    let have =
        list(candidates.iter().map(|address| format!("{} on {}", address.ip, facts.name(address.link))));
    if wish.cidrs.is_empty() && wish.interfaces.is_empty() {
        return NoUnderlay::NotHere { family, node: list(node_ips.iter().map(ToString::to_string)), have };
    }
    let wish = list(wish.cidrs.iter().map(ToString::to_string).chain(wish.interfaces.iter().cloned()));
    NoUnderlay::Unmet { family, wish, have }
}

/// Whether peers could dial an address at all.
fn usable(address: &Address, family: Family, facts: &Facts) -> bool {
    let special = match address.ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback() || v4.is_unspecified() || v4.is_multicast(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.is_loopback() || v6.is_unspecified() || v6.is_multicast()
        }
    };
    family.admits(address.ip)
        && !special
        && address.lasting
        && !matches!(address.scope, Scope::Link | Scope::Host)
        && !facts.is_ours(address.link)
}

/// Whether a name is what a pattern says; `*` stands for any text, also none.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).filter_map(|at| name.get(at..)).any(|tail| matches(rest, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Link, Vxlan};

    fn facts() -> Facts {
        let link = |index, name: &str| Link { index, name: name.into(), mtu: 1500, ..Link::default() };
        let address = |link, ip: &str, prefix| Address {
            link,
            ip: ip.parse().unwrap(),
            prefix,
            scope: Scope::Global,
            lasting: true,
        };
        let ours = Link {
            alias: Some("balancing:default".into()),
            vxlan: Some(Vxlan { local: Some("192.168.1.3".parse().unwrap()), ..Vxlan::default() }),
            ..link(5, "balancing0")
        };
        Facts {
            links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "wan-7"), ours],
            addresses: vec![
                address(1, "127.0.0.1", 8),
                address(2, "10.0.2.15", 24),
                address(2, "fe80::1", 64),
                address(3, "192.168.1.2", 24),
                address(3, "192.168.1.3", 24),
                address(3, "fd00::2", 64),
                address(4, "203.0.113.9", 24),
                address(5, "10.211.3.7", 32),
            ],
            ..Facts::default()
        }
    }

    fn chosen(cidrs: &[&str], interfaces: &[&str], family: Family, node: &[&str]) -> Result<String, String> {
        let wish = Underlay {
            cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
            interfaces: interfaces.iter().map(|&text| text.to_owned()).collect(),
            family,
        };
        let node: Vec<IpAddr> = node.iter().map(|text| text.parse().unwrap()).collect();
        match choose(&wish, &node, &facts()) {
            Ok(pair) => Ok(pair.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" ")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn networks_come_before_interfaces_and_these_before_the_node() {
        let node = &["10.0.2.15"];
        assert_eq!(chosen(&["203.0.113.0/24"], &["eth1"], Family::Auto, node).unwrap(), "203.0.113.9");
        assert_eq!(
            chosen(&["198.51.100.0/24"], &["eth1"], Family::Auto, node).unwrap(),
            "192.168.1.3 fd00::2"
        );
        assert_eq!(chosen(&[], &["wan-*"], Family::Auto, node).unwrap(), "203.0.113.9");
        assert_eq!(chosen(&[], &[], Family::Auto, node).unwrap(), "10.0.2.15");
        assert_eq!(
            chosen(&["203.0.113.0/24", "fd00::/8"], &[], Family::Auto, node).unwrap(),
            "203.0.113.9 fd00::2"
        );
    }

    #[test]
    fn the_nodes_address_is_preferred_then_the_one_in_use() {
        assert_eq!(chosen(&["192.168.1.0/24"], &[], Family::Auto, &["192.168.1.2"]).unwrap(), "192.168.1.2");
        assert_eq!(chosen(&["192.168.1.0/24"], &[], Family::Auto, &[]).unwrap(), "192.168.1.3");
    }

    #[test]
    fn a_family_is_a_limit() {
        assert_eq!(chosen(&[], &["eth1"], Family::Ipv6, &[]).unwrap(), "fd00::2");
        assert_eq!(chosen(&[], &["eth1"], Family::Ipv4, &[]).unwrap(), "192.168.1.3");
    }

    #[test]
    fn nothing_is_guessed_and_the_refusal_names_wish_host_and_remedy() {
        let error = chosen(&[], &[], Family::Auto, &["192.0.2.1"]).unwrap_err();
        assert!(error.contains("(192.0.2.1)") && error.contains("10.0.2.15 on eth0"), "{error}");
        assert!(error.contains("spec.underlay.cidrs"), "{error}");
        let error = chosen(&["198.51.100.0/24"], &["bond*"], Family::Ipv4, &["10.0.2.15"]).unwrap_err();
        assert!(error.contains("no IPv4 address") && error.contains("198.51.100.0/24, bond*"), "{error}");
    }

    #[test]
    fn our_own_device_loopback_and_link_local_never_count() {
        for interface in ["lo", "balancing*"] {
            assert!(chosen(&[], &[interface], Family::Auto, &[]).is_err(), "{interface}");
        }
        assert!(chosen(&["fe80::/10"], &[], Family::Auto, &[]).is_err());
        assert!(chosen(&[], &[], Family::Auto, &["10.211.3.7", "127.0.0.1", "fe80::1"]).is_err());
        let mut facts = facts();
        for address in &mut facts.addresses {
            address.lasting = false;
        }
        assert!(choose(&Underlay::default(), &["10.0.2.15".parse().unwrap()], &facts).is_err());
    }

    #[test]
    fn patterns_stand_for_any_text() {
        for (pattern, name, right) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("*", "", true),
            ("e*0", "eth0", true),
            ("e*h*1", "eth0", false),
            ("*0", "eth0.101", false),
        ] {
            assert_eq!(matches(pattern, name), right, "{pattern} {name}");
        }
    }
}
