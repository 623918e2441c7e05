//! The shapes that the tables must have, for comparison with what is pinned.

use balancing_abi::{
    Affinity, AffinityKey, Control, Key4, Key6, Locked, Name, PolicyName, RareKey, SkipKey, Slot, UdpPeers,
    maps::{self, size},
    stat,
};

/// `enum bpf_map_type` of the kernel's `include/uapi/linux/bpf.h`.
mod kind {
    pub(super) const HASH: u32 = 1;
    pub(super) const ARRAY: u32 = 2;
    pub(super) const PERCPU_HASH: u32 = 5;
    pub(super) const PERCPU_ARRAY: u32 = 6;
    pub(super) const LRU_HASH: u32 = 9;
    pub(super) const SK_STORAGE: u32 = 24;
    pub(super) const RINGBUF: u32 = 27;
}

/// What identifies a table's layout to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) kind: u32,
    pub(crate) key: u32,
    pub(crate) value: u32,
    pub(crate) entries: u32,
}

const fn shape<K, V>(name: &'static str, kind: u32, entries: u32) -> Shape {
    Shape { name, kind, key: size_of::<K>() as u32, value: size_of::<V>() as u32, entries }
}

/// All tables, with their default capacities.
pub(crate) const ALL: [Shape; 15] = [
    shape::<Key4, Locked>(maps::FRONTENDS4, kind::HASH, size::FRONTENDS),
    shape::<Key6, Locked>(maps::FRONTENDS6, kind::HASH, size::FRONTENDS),
    shape::<u32, Slot>(maps::BACKENDS, kind::ARRAY, size::BACKENDS),
    shape::<u32, Name>(maps::NAMES, kind::ARRAY, size::FRONTENDS),
    shape::<u32, u64>(maps::REDIRECTED, kind::PERCPU_ARRAY, size::FRONTENDS),
    shape::<RareKey, u64>(maps::RARE, kind::PERCPU_HASH, size::RARE),
    shape::<u32, [u64; 2]>(maps::CONNECTIONS, kind::ARRAY, size::CONNECTIONS),
    shape::<u32, UdpPeers>(maps::UDP_PEERS, kind::SK_STORAGE, 0),
    shape::<AffinityKey, Affinity>(maps::AFFINITY, kind::LRU_HASH, size::AFFINITY),
    shape::<u32, u64>(maps::QOS, kind::HASH, size::QOS),
    shape::<SkipKey, u8>(maps::SKIPS, kind::HASH, size::SKIPS),
    shape::<u32, PolicyName>(maps::POLICIES, kind::HASH, size::POLICIES),
    shape::<u32, u64>(maps::STATS, kind::PERCPU_ARRAY, stat::COUNT),
    shape::<u32, Control>(maps::CONTROL, kind::ARRAY, 1),
    shape::<(), ()>(maps::EVENTS, kind::RINGBUF, size::EVENTS),
];
