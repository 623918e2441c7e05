//! The maps, as the programs see them. User space sets the sizes and owns the content.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use balancing_abi::sockets::{
    AffinityKey, Control, Frontend, Name, PolicyName, RareCounters, SkipKey, Slot, UdpPeers, Window, index,
    known, maps::size, stat,
};

/// Memory only for the entries there are.
const GROW: usize = BPF_F_NO_PREALLOC as usize;
/// User space reads and writes it as memory.
const SHARED: usize = BPF_F_MMAPABLE as usize;

const BLOCKS: usize = (index::buckets(size::FRONTENDS) / index::BLOCK) as usize;
const SLOTS: usize = (size::FRONTENDS + size::SPARE) as usize;

macro_rules! maps {
    ($($name:ident: $ty:ty;)+) => {$(
        #[btf_map]
        #[allow(non_upper_case_globals, reason = "the symbol is the name of the map")]
        pub(crate) static $name: $ty = <$ty>::new();
    )+};
}

maps! {
    index: Array<[u32; index::BLOCK as usize], BLOCKS, SHARED>;
    known: Array<[u64; known::BLOCK as usize], { known::BLOCKS as usize }, SHARED>;
    random: Array<[u64; 8], 1>;
    frontends: Array<Frontend, SLOTS, SHARED>;
    backends: Array<Slot, { size::BACKENDS as usize }, SHARED>;
    names: Array<Name, { size::FRONTENDS as usize }, SHARED>;
    redirected: Array<u64, { size::FRONTENDS as usize }, SHARED>;
    rare: Array<RareCounters, { size::FRONTENDS as usize }, SHARED>;
    connections: Array<[u64; 2], { size::CONNECTIONS as usize }>;
    udp_peers: SkStorage<UdpPeers>;
    affinity: LruHashMap<AffinityKey, u64, { size::AFFINITY as usize }>;
    qos: Array<Window, { size::QOS as usize }, SHARED>;
    skips: HashMap<SkipKey, u8, { size::SKIPS as usize }, GROW>;
    policies: HashMap<u32, PolicyName, { size::POLICIES as usize }, GROW>;
    stats: PerCpuArray<u64, { stat::COUNT as usize }>;
    control: Array<Control, 1, SHARED>;
    events: RingBuf<u8, { size::EVENTS as usize }>;
}
