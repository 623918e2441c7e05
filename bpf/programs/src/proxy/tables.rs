//! The maps, as the programs see them. User space sets the sizes.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use balancing_abi::proxy::{
    AffinityKey, Backend, Connection, ConnectionKey, Control, Fragment, FragmentKey, FrontendKey, Service,
    counter, maps::size,
};

use crate::scratch::{ROOMS, Scratch};

/// Memory only for the entries there are.
const GROW: usize = BPF_F_NO_PREALLOC as usize;
/// User space reads and writes it as memory.
const SHARED: usize = BPF_F_MMAPABLE as usize;

const SERVICES: usize = (size::FRONTENDS + size::SPARE) as usize;

macro_rules! maps {
    ($($name:ident: $ty:ty;)+) => {$(
        #[btf_map]
        #[allow(non_upper_case_globals, reason = "the symbol is the name of the map")]
        pub(crate) static $name: $ty = <$ty>::new();
    )+};
}

maps! {
    frontends: HashMap<FrontendKey, u32, { size::FRONTENDS as usize }, GROW>;
    services: Array<Service, SERVICES, SHARED>;
    backends: Array<Backend, { size::BACKENDS as usize }, SHARED>;
    connections: LruHashMap<ConnectionKey, Connection, { size::CONNECTIONS as usize }>;
    affinity: LruHashMap<AffinityKey, u64, { size::AFFINITY as usize }>;
    fragments: LruHashMap<FragmentKey, Fragment, { size::FRAGMENTS as usize }>;
    counters: PerCpuArray<u64, { counter::COUNT as usize }>;
    control: Array<Control, 1, SHARED>;
    scratch: PerCpuArray<Scratch, { ROOMS as usize }>;
}
