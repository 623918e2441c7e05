//! What is decided for a dialled address: the layers of a frontend and their backends.

use crate::plain;

plain!(FrontendKey = 20, Frontend = 64, Target = 24, Slot = 32, SetHead = 32);

/// Layers that a frontend can have.
pub const LAYERS: usize = 4;

/// The address that an application dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendKey {
    /// Address in network order, IPv4 as mapped.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// One layer of a frontend, one cache line. A lone backend is held here, so that the most frequent case reads no second table.
///
/// Slots start at 1; 0 names none. Everything but [`Frontend::chain`] stays as it is while a word of the index or another
/// slot names this one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What is dialled.
    pub key: FrontendKey,
    /// Slot of the next frontend of the same bucket of the index, 0 = the last; only in first layers. User space may
    /// change it at any time, by one store.
    pub chain: u32,
    /// Slot of the layer that decides where this one stands aside, 0 = none.
    pub next: u32,
    /// Policy; names skip rules and events.
    pub service_id: u32,
    /// [`super::reverse_nat::reference`]: index in the tables of names and counters.
    pub reference: u32,
    /// Number of backends.
    pub count: u32,
    /// The lone backend, or where the set is.
    pub target: Target,
}

/// A backend; or, with [`flags::SET`], in `address[0]` the index of a set's first slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address in network order, IPv4 as mapped.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// In a [`Frontend`]: bits of [`flags`]. In a [`Slot`]: the weight, for user space.
    pub detail: u16,
    /// Id of the backend; the same as long as any set holds the backend. Never 0.
    pub id: u32,
}

/// Bits of [`Target::detail`] in a [`Frontend`].
pub mod flags {
    /// Applies to sockets of pods.
    pub const PODS: u16 = 1;
    /// Applies to sockets of the host.
    pub const HOST: u16 = 1 << 1;
    /// The skip table has rows for the policy.
    pub const SKIP: u16 = 1 << 2;
    /// Rows of the skip table name cgroups, not only network namespaces.
    pub const SKIP_CGROUP: u16 = 1 << 3;
    /// Without a backend: refuse.
    pub const REJECT: u16 = 1 << 4;
    /// No backend takes new clients: all have weight 0.
    pub const DRAINED: u16 = 1 << 5;
    /// The backends are a set of slots. Without it there is a lone backend, or none.
    pub const SET: u16 = 1 << 6;
    /// The slot before the set's first is a [`super::SetHead`]: there is a QoS limit or affinity.
    pub const HEAD: u16 = 1 << 7;
}

/// One backend of a set, with its row of the alias table that makes a weighted choice one step.
/// The slots of a set are consecutive and sorted by [`Target::id`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The backend.
    pub target: Target,
    /// See [`super::pick::Alias`].
    pub threshold: u32,
    /// See [`super::pick::Alias`].
    pub alias: u32,
}

/// What a set needs beyond its backends, in the place of the slot before its first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetHead {
    /// Redirections a second; 0 = unlimited.
    pub qos_limit: u32,
    /// Index of the QoS window.
    pub window: u32,
    /// [`super::Affinity::TICK_NS`]s that a client keeps its backend; 0 = no affinity.
    pub affinity: u32,
    /// Seconds that the ticks were made from; for user space.
    pub affinity_seconds: u32,
    /// Zero.
    pub pad: [u32; 4],
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of};

    use super::*;

    /// What is read by other means than the field's name.
    #[test]
    fn fields_are_where_both_sides_expect_them() {
        assert_eq!(offset_of!(Frontend, key), 0, "programs compare words from the beginning");
        assert_eq!(offset_of!(FrontendKey, port), 16, "port, protocol and padding are one word");
        assert_eq!(offset_of!(Frontend, chain) % 4, 0, "changed by one store");
        assert_eq!(offset_of!(Frontend, target), 40);
        assert_eq!(offset_of!(Slot, target), 0, "programs take a slot as a backend");
        assert_eq!((align_of::<Frontend>(), align_of::<Slot>()), (4, 4));
    }
}
