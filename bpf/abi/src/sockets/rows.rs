//! What sockets and clients leave behind: names, translations, affinity, exemptions, QoS windows.

use crate::plain;

plain!(Name = 24, UdpPeer = 48, UdpPeers = 208, AffinityKey = 16, SkipKey = 16, Window = 16);

/// What an application dialled, by frontend id.
///
/// A name is read while user space may be giving its id to another frontend. It first raises the generation, by
/// one store of the last eight bytes, so that no reference names the id any more; it writes the address after a grace
/// period; a frontend of the new generation is published after that.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Address in network order, IPv4 as mapped.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// See [`super::reverse_nat::reference`]; 0 = never used.
    pub generation: u32,
}

/// The kernel knows the type by its name. It is zero for user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the kernel's name")]
pub struct bpf_spin_lock {
    /// For the kernel.
    pub val: u32,
}

/// How many frontends an unconnected UDP socket can use at once and still have every reply named.
pub const UDP_PEERS: usize = 4;

/// Translations of one unconnected UDP socket. Threads that share the socket take the lock.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPeers {
    /// For the kernel.
    pub lock: bpf_spin_lock,
    /// Time of the last use, in sends.
    pub clock: u32,
    /// [`super::reverse_nat::reference`] of the frontend that the socket was connected to when it last sent elsewhere, 0 when it was
    /// not connected: translations older than a connection do not name what is heard through it.
    pub connected: u32,
    /// [`super::flags::PODS`] or [`super::flags::HOST`]: which program translated last. The other one, which runs after it in
    /// the same call, does not take the backend's address for one that the application dialled.
    pub translator: u32,
    /// The last frontends used.
    pub peers: [UdpPeer; UDP_PEERS],
}

/// One translation of an unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPeer {
    /// What was dialled.
    pub frontend: [u32; 4],
    /// Where it goes.
    pub backend: [u32; 4],
    /// Port dialled.
    pub frontend_port: u16,
    /// Port of the backend.
    pub backend_port: u16,
    /// [`super::reverse_nat::reference`] of the frontend; 0 = empty.
    pub reference: u32,
    /// Id of the backend.
    pub backend_id: u32,
    /// [`UdpPeers::clock`] at the last use.
    pub used: u32,
}

/// Key of the affinity table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityKey {
    /// Network namespace cookie of the client.
    pub client: u64,
    /// [`super::reverse_nat::reference`] of the frontend.
    pub reference: u32,
    /// Zero.
    pub pad: u32,
}

/// The backend of a client and when it was used last, in one word, so that CPUs that meet agree by one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Id of the backend.
    pub backend_id: u32,
    /// [`Affinity::now`] at the last connection.
    pub used: u32,
}

impl Affinity {
    /// Nanoseconds of a tick: 67 ms. The clock of ticks wraps after nine years.
    pub const TICK_NS: u64 = 1 << 26;
    /// Longest time that can be told from a wrapped clock, in ticks: four years.
    pub const LONGEST: u32 = (1 << 31) - (1 << 16);

    /// The tick of a monotonic time in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn now(nanoseconds: u64) -> u32 {
        (nanoseconds / Self::TICK_NS) as u32
    }

    /// The word in the table.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        (self.used as u64) << 32 | self.backend_id as u64
    }

    /// The content of a word.
    #[inline(always)]
    #[must_use]
    pub const fn of(word: u64) -> Self {
        Self { backend_id: word as u32, used: (word >> 32) as u32 }
    }

    /// Whether the backend still is the client's. Another CPU may have read its clock later than this one and written first: a
    /// use that seems to lie up to a quarter of an hour ahead is one of just now.
    #[inline(always)]
    #[must_use]
    pub const fn is_fresh(self, now: u32, ticks: u32) -> bool {
        const AHEAD: u32 = 1 << 14;
        now.wrapping_sub(self.used).wrapping_add(AHEAD) < ticks.saturating_add(AHEAD)
    }

    /// Seconds in ticks, as far as they can be told.
    #[must_use]
    pub const fn ticks(seconds: u32) -> u32 {
        let ticks = (seconds as u64 * 1_000_000_000).div_ceil(Self::TICK_NS);
        if ticks > Self::LONGEST as u64 { Self::LONGEST } else { ticks as u32 }
    }
}

/// Key of the skip table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkipKey {
    /// Network namespace cookie or cgroup id.
    pub client: u64,
    /// Policy; 0 = every policy.
    pub service_id: u32,
    /// [`SkipKey::NETNS`] or [`SkipKey::CGROUP`].
    pub kind: u32,
}

impl SkipKey {
    /// `client` is a network namespace cookie.
    pub const NETNS: u32 = 0;
    /// `client` is a cgroup id.
    pub const CGROUP: u32 = 1;
    /// Depth to which the ancestors of a client's cgroup are looked up.
    pub const DEPTH: i32 = 64;
}

/// The QoS window of a policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The second of the monotonic clock and, in the lower half, the grants in it. Programs change it atomically; user space
    /// never writes it while the row has an owner.
    pub grants: u64,
    /// Who has the row, for user space; 0 = nobody.
    pub owner: u64,
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn a_name_changes_hands_by_one_aligned_word() {
        assert_eq!((offset_of!(Name, port), offset_of!(Name, generation)), (16, 20));
    }

    #[test]
    fn affinity_lasts_as_long_as_it_should_whoever_looks_first() {
        let used = |used| Affinity { backend_id: 1, used };
        assert!(used(100).is_fresh(100, 10));
        assert!(used(100).is_fresh(109, 10));
        assert!(!used(100).is_fresh(110, 10));
        // Another CPU was later, and stored first.
        assert!(used(101).is_fresh(100, 10));
        // Across the wrap.
        assert!(used(u32::MAX).is_fresh(3, 10));
        assert!(used(2).is_fresh(u32::MAX, 10));
        assert!(!used(u32::MAX - 20).is_fresh(3, 10));
        // What lies years back does not come to life again.
        assert!(!used(100).is_fresh(100_u32.wrapping_sub(1 << 20), 10));
        assert!(!used(100).is_fresh(100 + Affinity::LONGEST, Affinity::LONGEST));
    }

    #[test]
    fn words_and_seconds() {
        let affinity = Affinity { backend_id: 7, used: 9 };
        assert_eq!(Affinity::of(affinity.word()), affinity);
        assert_eq!(Affinity::ticks(1), 15);
        assert_eq!(Affinity::ticks(u32::MAX), Affinity::LONGEST);
        assert_eq!(Affinity::now(10_800 * 1_000_000_000), Affinity::ticks(10_800) - 1);
    }
}
