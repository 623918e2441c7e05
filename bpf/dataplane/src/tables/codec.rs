//! Between plain types and the bytes of the tables. Pure.

use std::net::{IpAddr, Ipv6Addr};

use balancing_abi::{
    self as abi, is_mapped, mapped,
    sockets::{
        Affinity, Frontend, FrontendKey as RawKey, SetHead, Slot, Target, flags,
        pick::{self, Alias},
        reverse_nat,
    },
};

use super::alloc::Range;
use crate::model::{Backend, ClientId, Clients, FrontendKey, Layer, Protocol};

/// The key as the programs compare it.
pub(crate) fn key(key: &FrontendKey) -> RawKey {
    RawKey { address: words(key.address), port: key.port.to_be(), protocol: protocol(key.protocol), pad: 0 }
}

/// The plain key; `None` for a protocol that is not ours.
pub(crate) fn plain_key(key: &RawKey) -> Option<FrontendKey> {
    plain_frontend(&key.address, key.port, key.protocol)
}

/// An address, a port and a protocol as programs hold them; `None` for a protocol that is not ours.
pub(crate) fn plain_frontend(words: &[u32; 4], port: u16, protocol: u8) -> Option<FrontendKey> {
    let protocol = match protocol {
        abi::TCP => Protocol::Tcp,
        abi::UDP => Protocol::Udp,
        _ => return None,
    };
    Some(FrontendKey { address: address(words), port: u16::from_be(port), protocol })
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

/// Slots that the backends of a layer take, one for the head included. A lone backend without limit and affinity lies in the
/// frontend itself.
pub(crate) fn slots_needed(layer: &Layer) -> u32 {
    match layer.backends.len() as u32 {
        0 => 0,
        1 if !needs_head(layer) => 0,
        n => n + u32::from(needs_head(layer)),
    }
}

fn needs_head(layer: &Layer) -> bool {
    layer.qos_limit.is_some() || layer.affinity.is_some()
}

/// Identity and place of a layer's frontend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    /// Slots of the backends, head first.
    pub(crate) set: Option<Range>,
    /// Slot of the layer below.
    pub(crate) next: u32,
}

/// The slot of a layer. `backends` are sorted by id.
pub(crate) fn frontend(
    key: &FrontendKey,
    place: &Place,
    layer: &Layer,
    backends: &[(u32, Backend)],
) -> Frontend {
    let mut target = Target { address: [0; 4], port: 0, detail: detail(layer), id: 0 };
    match (place.set, backends) {
        (Some(set), _) => {
            target.detail |= flags::SET;
            if needs_head(layer) {
                target.detail |= flags::HEAD;
            }
            target.address[0] = set.first + u32::from(needs_head(layer));
        }
        (None, [(id, backend)]) => {
            target.address = words(backend.address);
            target.port = backend.port.to_be();
            target.id = *id;
        }
        (None, _) => {}
    }
    Frontend {
        key: self::key(key),
        chain: 0,
        next: place.next,
        service_id: layer.service_id,
        reference: reverse_nat::reference(place.id, place.generation),
        count: backends.len() as u32,
        target,
    }
}

fn detail(layer: &Layer) -> u16 {
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
        (flags::DRAINED, drained),
    ] {
        if set {
            bits |= bit;
        }
    }
    bits
}

/// What stands before a layer's slots, if anything.
pub(crate) fn head(layer: &Layer, window: u32) -> Option<SetHead> {
    let seconds = layer.affinity.map_or(0, Into::into);
    needs_head(layer).then(|| SetHead {
        qos_limit: layer.qos_limit.map_or(0, Into::into),
        window,
        affinity: Affinity::ticks(seconds),
        affinity_seconds: seconds,
        pad: [0; 4],
    })
}

/// A head in the place of a slot.
pub(crate) fn head_as_slot(head: &SetHead) -> Slot {
    let address = [head.qos_limit, head.window, head.affinity, head.affinity_seconds];
    Slot { target: Target { address, port: 0, detail: 0, id: 0 }, threshold: 0, alias: 0 }
}

/// The head in the place of a slot.
pub(crate) fn slot_as_head(slot: &Slot) -> SetHead {
    let [qos_limit, window, affinity, affinity_seconds] = slot.target.address;
    SetHead { qos_limit, window, affinity, affinity_seconds, pad: [0; 4] }
}

/// The slots of a set, sorted by id as the programs expect.
pub(crate) fn slots(backends: &[(u32, Backend)]) -> Vec<Slot> {
    let weights: Vec<u32> = backends.iter().map(|(_, b)| b.weight).collect();
    let mut rows = vec![Alias { threshold: 0, alias: 0 }; weights.len()];
    pick::fill(&weights, &mut rows, &mut vec![0; weights.len()]);
    let target = |id: u32, backend: &Backend| Target {
        address: words(backend.address),
        port: backend.port.to_be(),
        detail: backend.weight as u16,
        id,
    };
    let rows = backends.iter().zip(rows);
    rows.map(|((id, backend), row)| Slot {
        target: target(*id, backend),
        threshold: row.threshold,
        alias: row.alias,
    })
    .collect()
}

/// A backend, and its weight where the caller knows better than a slot does.
pub(crate) fn backend(target: &Target, weight: u32) -> Backend {
    Backend { address: address(&target.address), port: u16::from_be(target.port), weight }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layer(weights: &[u32]) -> Layer {
        Layer {
            service_id: 1,
            window: 0,
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

    #[test]
    fn keys_and_addresses_survive_the_way_there_and_back() {
        for address in ["10.1.2.3", "fd00::1:2"] {
            let key = FrontendKey { address: address.parse().unwrap(), port: 53, protocol: Protocol::Udp };
            assert_eq!(plain_key(&super::key(&key)), Some(key));
            assert_eq!(super::address(&words(key.address)), key.address);
        }
    }

    #[test]
    fn a_head_fits_the_place_of_a_slot() {
        let layer = Layer {
            qos_limit: std::num::NonZeroU32::new(5),
            affinity: std::num::NonZeroU32::new(10_800),
            ..layer(&[1])
        };
        let head = head(&layer, 7).unwrap();
        assert_eq!(slot_as_head(&head_as_slot(&head)), head);
        assert_eq!((head.qos_limit, head.window, head.affinity_seconds), (5, 7, 10_800));
        assert_eq!((slots_needed(&layer), slots_needed(&Layer { qos_limit: None, ..layer.clone() })), (2, 2));
        assert_eq!(slots_needed(&super::tests::layer(&[1])), 0);
        assert_eq!(slots_needed(&super::tests::layer(&[1, 1])), 2);
    }
}
