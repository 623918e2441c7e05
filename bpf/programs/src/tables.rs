//! The maps, as the programs see them. User space sets the sizes and owns the content.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage},
    macros::btf_map,
};
use balancing_abi::{
    Affinity, AffinityKey, Control, Key4, Key6, Locked, Name, PolicyName, RareKey, SkipKey, Slot, UdpPeers,
    maps::size, stat,
};

/// Memory only for the entries there are.
const GROW: usize = BPF_F_NO_PREALLOC as usize;

macro_rules! maps {
    ($($name:ident: $ty:ty;)+) => {$(
        #[btf_map]
        #[allow(non_upper_case_globals, reason = "the symbol is the name of the map")]
        pub(crate) static $name: $ty = <$ty>::new();
    )+};
}

maps! {
    frontends4: HashMap<Key4, Locked, { size::FRONTENDS as usize }, GROW>;
    frontends6: HashMap<Key6, Locked, { size::FRONTENDS as usize }, GROW>;
    backends: Array<Slot, { size::BACKENDS as usize }>;
    names: Array<Name, { size::FRONTENDS as usize }>;
    redirected: PerCpuArray<u64, { size::FRONTENDS as usize }>;
    rare: PerCpuHashMap<RareKey, u64, { size::RARE as usize }, GROW>;
    connections: Array<[u64; 2], { size::CONNECTIONS as usize }>;
    udp_peers: SkStorage<UdpPeers>;
    affinity: LruHashMap<AffinityKey, Affinity, { size::AFFINITY as usize }>;
    qos: HashMap<u32, u64, { size::QOS as usize }, GROW>;
    skips: HashMap<SkipKey, u8, { size::SKIPS as usize }, GROW>;
    policies: HashMap<u32, PolicyName, { size::POLICIES as usize }, GROW>;
    stats: PerCpuArray<u64, { stat::COUNT as usize }>;
    control: Array<Control, 1>;
    events: RingBuf<u8, { size::EVENTS as usize }>;
}
