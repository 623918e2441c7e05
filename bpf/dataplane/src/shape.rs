//! The shapes that the tables must have, for comparison with what is pinned.

use balancing_abi::sockets::{
    AffinityKey, Control, Frontend, Name, PolicyName, RareCounters, SkipKey, Slot, UdpPeers, Window, index,
    known, maps, maps::size, stat,
};

/// `enum bpf_map_type` of the kernel's `include/uapi/linux/bpf.h`.
mod kind {
    pub(super) const HASH: u32 = 1;
    pub(super) const ARRAY: u32 = 2;
    pub(super) const PERCPU_ARRAY: u32 = 6;
    pub(super) const LRU_HASH: u32 = 9;
    pub(super) const SK_STORAGE: u32 = 24;
    pub(super) const RINGBUF: u32 = 27;
}

/// `BPF_F_NO_PREALLOC`
const GROW: u32 = 1;
/// `BPF_F_MMAPABLE`
const SHARED: u32 = 1 << 10;

/// What identifies a table's layout to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) kind: u32,
    pub(crate) key: u32,
    pub(crate) value: u32,
    /// Capacity of a table that no setting changes.
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

const fn shape<K, V>(name: &'static str, kind: u32, entries: u32, flags: u32) -> Shape {
    Shape { name, kind, key: size_of::<K>() as u32, value: size_of::<V>() as u32, entries, flags }
}

const fn shared<V>(name: &'static str) -> Shape {
    shape::<u32, V>(name, kind::ARRAY, 1, SHARED)
}

/// All tables.
pub(crate) const ALL: [Shape; 17] = [
    shared::<[u32; index::BLOCK as usize]>(maps::INDEX),
    shared::<[u64; known::BLOCK as usize]>(maps::KNOWN),
    shape::<u32, [u64; 8]>(maps::RANDOM, kind::ARRAY, 0, 0),
    shared::<Frontend>(maps::FRONTENDS),
    shared::<Slot>(maps::BACKENDS),
    shared::<Name>(maps::NAMES),
    shared::<u64>(maps::REDIRECTED),
    shared::<RareCounters>(maps::RARE),
    shape::<u32, [u64; 2]>(maps::CONNECTIONS, kind::ARRAY, 0, 0),
    shape::<u32, UdpPeers>(maps::UDP_PEERS, kind::SK_STORAGE, 0, GROW),
    shape::<AffinityKey, u64>(maps::AFFINITY, kind::LRU_HASH, 0, 0),
    shared::<Window>(maps::QOS),
    shape::<SkipKey, u8>(maps::SKIPS, kind::HASH, 0, GROW),
    shape::<u32, PolicyName>(maps::POLICIES, kind::HASH, 0, GROW),
    shape::<u32, u64>(maps::STATS, kind::PERCPU_ARRAY, stat::COUNT, 0),
    shared::<Control>(maps::CONTROL),
    shape::<(), ()>(maps::EVENTS, kind::RINGBUF, size::EVENTS, 0),
];
