//! Between plain types and the bytes of the tables. Pure.

use std::net::{IpAddr, Ipv6Addr};

use balancing_abi::{
    self as abi, Frontend, Key4, Key6, Slot, Target, check, flags, is_mapped, mapped,
    pick::{self, Alias},
};

use super::alloc::Range;
use crate::model::{Backend, ClientId, Clients, Entry, FrontendKey, Layer, Protocol};

/// A key of one of the two frontend tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    V4(Key4),
    V6(Key6),
}

impl Key {
    pub(crate) fn new(key: &FrontendKey, layer: u8) -> Self {
        let (port, protocol) = (key.port.to_be(), protocol(key.protocol));
        match key.address {
            IpAddr::V4(ip) => {
                Self::V4(Key4 { address: u32::from_ne_bytes(ip.octets()), port, protocol, layer })
            }
            IpAddr::V6(_) => Self::V6(Key6 { address: words(key.address), port, protocol, layer }),
        }
    }

    /// The plain key and the layer; `None` for a protocol that is not ours.
    pub(crate) fn plain(&self) -> Option<(FrontendKey, u8)> {
        let (address, port, protocol, layer) = match self {
            Self::V4(k) => (mapped(k.address), k.port, k.protocol, k.layer),
            Self::V6(k) => (k.address, k.port, k.protocol, k.layer),
        };
        let protocol = match protocol {
            abi::TCP => Protocol::Tcp,
            abi::UDP => Protocol::Udp,
            _ => return None,
        };
        Some((FrontendKey { address: self::address(&address), port: u16::from_be(port), protocol }, layer))
    }

    pub(crate) fn sum(&self, entry: &Frontend) -> u64 {
        match self {
            Self::V4(k) => check::sum(k, entry),
            Self::V6(k) => check::sum(k, entry),
        }
    }
}

pub(crate) fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => abi::TCP,
        Protocol::Udp => abi::UDP,
    }
}

/// The address as the programs hold it.
pub(crate) fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(ip) => return mapped(u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => ip.octets(),
    };
    std::array::from_fn(|i| {
        u32::from_ne_bytes([octets[4 * i], octets[4 * i + 1], octets[4 * i + 2], octets[4 * i + 3]])
    })
}

/// The address that the programs hold.
pub(crate) fn address(words: &[u32; 4]) -> IpAddr {
    if is_mapped(words) {
        return IpAddr::V4(words[3].to_ne_bytes().into());
    }
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// The entry of a layer. `backends` are sorted by id; a set is given for more than one.
pub(crate) fn frontend(
    key: &Key,
    id: u32,
    generation: u32,
    layer: &Layer,
    backends: &[(u32, Backend)],
    set: Option<Range>,
    next: bool,
) -> Frontend {
    let mut target = Target { address: [0; 4], port: 0, generation: generation as u16, id: 0 };
    match (set, backends) {
        (Some(set), _) => target.address[0] = set.first,
        (None, [(id, backend)]) => {
            target.address = words(backend.address);
            target.port = backend.port.to_be();
            target.id = *id;
        }
        (None, _) => {}
    }
    let mut entry = Frontend {
        check: 0,
        service_id: layer.service_id,
        id,
        flags: layer_flags(layer, next),
        count: backends.len() as u32,
        qos_limit: layer.qos_limit.map_or(0, Into::into),
        affinity: layer.affinity.map_or(0, Into::into),
        target,
    };
    entry.check = key.sum(&entry);
    entry
}

fn layer_flags(layer: &Layer, next: bool) -> u32 {
    let mut bits = match layer.clients {
        Clients::All => flags::PODS | flags::HOST,
        Clients::Pods => flags::PODS,
        Clients::Host => flags::HOST,
    };
    let drained = !layer.backends.is_empty() && layer.backends.iter().all(|b| b.weight == 0);
    for (bit, set) in [
        (flags::SKIP, !layer.skip.is_empty()),
        (flags::SKIP_CGROUP, layer.skip.iter().any(|c| matches!(c, ClientId::Cgroup(_)))),
        (flags::REJECT, layer.reject),
        (flags::NEXT, next),
        (flags::DRAINED, drained),
    ] {
        if set {
            bits |= bit;
        }
    }
    bits
}

/// The slots of a set, sorted by id as the programs expect.
pub(crate) fn slots(backends: &[(u32, Backend)]) -> Vec<Slot> {
    let weights: Vec<u32> = backends.iter().map(|(_, b)| b.weight).collect();
    let mut rows = vec![Alias { threshold: 0, alias: 0 }; weights.len()];
    pick::fill(&weights, &mut rows, &mut vec![0; weights.len()]);
    backends
        .iter()
        .zip(rows)
        .map(|((id, backend), row)| Slot {
            address: words(backend.address),
            port: backend.port.to_be(),
            weight: backend.weight as u16,
            id: *id,
            threshold: row.threshold,
            alias: row.alias,
        })
        .collect()
}

/// The backend of a slot.
pub(crate) fn backend(slot: &Slot) -> Backend {
    Backend { address: address(&slot.address), port: u16::from_be(slot.port), weight: u32::from(slot.weight) }
}

impl Entry {
    /// The same decision in the one form in which the tables hold it, so that two entries that mean the same are equal:
    /// weights without common divisor and within 16 bits, backends sorted.
    #[must_use]
    pub fn normalized(&self) -> Self {
        Self { first: self.first.normalized(), second: self.second.as_ref().map(Layer::normalized) }
    }
}

impl Layer {
    fn normalized(&self) -> Self {
        let mut layer = self.clone();
        layer.backends.sort_unstable();
        let divisor = layer.backends.iter().fold(0, |d, b| gcd(d, b.weight)).max(1);
        let largest = layer.backends.iter().map(|b| b.weight / divisor).max().unwrap_or(0);
        // Beyond 16 bits the shares are rounded; no weight above zero becomes zero.
        let shrink = largest.div_ceil(u32::from(u16::MAX)).max(1);
        for backend in &mut layer.backends {
            if backend.weight != 0 {
                backend.weight = (backend.weight / divisor / shrink).max(1);
            }
        }
        layer
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layer(weights: &[u32]) -> Layer {
        Layer {
            service_id: 1,
            backends: weights
                .iter()
                .enumerate()
                .map(|(i, w)| Backend { address: [10, 0, 0, i as u8].into(), port: 80, weight: *w })
                .collect(),
            clients: Clients::All,
            qos_limit: None,
            affinity: None,
            reject: false,
            skip: BTreeSet::new(),
        }
    }

    fn weights(layer: &Layer) -> Vec<u32> {
        layer.backends.iter().map(|b| b.weight).collect()
    }

    #[test]
    fn equal_shares_have_one_form() {
        assert_eq!(weights(&layer(&[100, 50, 0]).normalized()), [2, 1, 0]);
        assert_eq!(weights(&layer(&[7]).normalized()), [1]);
        assert_eq!(weights(&layer(&[0, 0]).normalized()), [0, 0]);
    }

    #[test]
    fn large_weights_fit_sixteen_bits_and_none_vanishes() {
        let normal = layer(&[1, 200_000]).normalized();
        assert!(normal.backends.iter().all(|b| (1..=65_535).contains(&b.weight)));
    }

    #[test]
    fn keys_and_addresses_survive_the_way_there_and_back() {
        for address in ["10.1.2.3", "fd00::1:2"] {
            let key = FrontendKey { address: address.parse().unwrap(), port: 53, protocol: Protocol::Udp };
            assert_eq!(Key::new(&key, 1).plain(), Some((key, 1)));
            assert_eq!(super::address(&words(key.address)), key.address);
        }
    }
}
