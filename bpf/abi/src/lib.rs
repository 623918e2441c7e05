//! Types and arithmetic shared by the BPF programs and user space.
//!
//! Everything that both sides must agree on is here and nowhere else: keys, values, map names, flags, and the pure
//! functions that encode or check them. A change of any layout raises [`ABI`]; the pins of
//! different ABIs live side by side in different directories.
//!
//! Addresses are 16 bytes in network order, IPv4 as IPv4-mapped IPv6, held as four `u32` words as
//! the kernel's `struct bpf_sock_addr` hands them out. Ports are in network order. All padding is
//! explicit, so that every byte of a key or value is defined.
#![no_std]

pub mod check;
pub mod conn;
pub mod maps;
pub mod pick;

/// Number of the layout described by this crate.
pub const ABI: u32 = 1;

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// Third word of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), as stored in memory.
pub const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// Marks a type whose every bit pattern is a value and which has no padding: `repr(C)`, integers and arrays of
/// them only. Sealed, so that the promise is kept by the types of this crate alone.
pub trait Plain: sealed::Sealed + Copy + 'static {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($ty:ty = $size:literal),+ $(,)?) => {$(
        impl sealed::Sealed for $ty {}
        impl Plain for $ty {}
        // The sum of the fields: no implicit padding.
        const _: () = assert!(core::mem::size_of::<$ty>() == $size);
    )+};
}

plain!(
    Key4 = 8,
    Key6 = 20,
    Frontend = 56,
    Locked = 64,
    Slot = 32,
    Name = 24,
    UdpPeers = 200,
    AffinityKey = 16,
    Affinity = 16,
    SkipKey = 16,
    RareKey = 8,
    PolicyName = 264,
    Control = 8,
    Event = 80,
);

/// Key of an IPv4 frontend, for sockets of either family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key4 {
    /// Address in network order.
    pub address: u32,
    /// Port in network order.
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// 0 = decides first, 1 = decides where the first stands aside.
    pub layer: u8,
}

/// Key of an IPv6 frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key6 {
    /// Address in network order.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// As in [`Key4::layer`].
    pub layer: u8,
}

/// One layer of a frontend. A lone backend is held here, so that the most frequent case reads no second table.
///
/// A program may look at bytes that are being overwritten: entries are changed in their place, and the kernel reuses
/// the memory of a deleted hash element at once (since Linux 6.1 even before a grace period). [`Frontend::check`]
/// binds key and content together: what does not check was torn and is read again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// [`check::sum`] of the key and of everything below.
    pub check: u64,
    /// Policy; names QoS window, skip rules and events.
    pub service_id: u32,
    /// Index in the tables of names and counters.
    pub id: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Number of backends; 1 = [`Frontend::target`] is the backend, more = it names the set.
    pub count: u32,
    /// Redirections a second; 0 = unlimited.
    pub qos_limit: u32,
    /// Seconds a client keeps its backend; 0 = no affinity.
    pub affinity: u32,
    /// The backend or the set.
    pub target: Target,
}

/// A frontend as it is in its table. With `BPF_F_LOCK` the kernel changes it in its place; an element that was replaced
/// would be reused at once, and a program that stands on it could find neither the old nor the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locked {
    /// The content, which programs read without the lock: [`Frontend::check`] tells whether it is whole.
    pub frontend: Frontend,
    /// For the kernel.
    pub lock: bpf_spin_lock,
    /// Zero.
    pub pad: u32,
}

/// The kernel knows the type by its name. It is zero for user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the kernel's name")]
pub struct bpf_spin_lock {
    /// For the kernel.
    pub val: u32,
}

/// A lone backend, or in `address[0]` the index of the first slot of a set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address in network order, IPv4 as mapped; or the first slot's index.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// Low bits of the generation of the frontend's name, see [`conn::reference`].
    pub generation: u16,
    /// Id of the backend.
    pub id: u32,
}

/// Bits of [`Frontend::flags`].
pub mod flags {
    /// Applies to sockets of pods.
    pub const PODS: u32 = 1;
    /// Applies to sockets of the host.
    pub const HOST: u32 = 1 << 1;
    /// The skip table has rows for the policy.
    pub const SKIP: u32 = 1 << 2;
    /// Rows of the skip table name cgroups, not only network namespaces.
    pub const SKIP_CGROUP: u32 = 1 << 3;
    /// Without a backend: refuse.
    pub const REJECT: u32 = 1 << 4;
    /// There is a second layer.
    pub const NEXT: u32 = 1 << 5;
    /// No backend takes new clients: all have weight 0.
    pub const DRAINED: u32 = 1 << 6;
}

/// One backend of a set, with its row of the alias table that makes a weighted choice one step.
/// The slots of a set are consecutive and sorted by [`Slot::id`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Address in network order, IPv4 as mapped.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// Weight the row was made from; for user space.
    pub weight: u16,
    /// Id of the backend; the same as long as any set holds the backend.
    pub id: u32,
    /// See [`pick::Alias`].
    pub threshold: u32,
    /// See [`pick::Alias`].
    pub alias: u32,
}

/// What an application dialled, by frontend id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Address in network order, IPv4 as mapped.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// Raised each time the id is given to another frontend; 0 = never used.
    pub generation: u32,
}

/// How many frontends an unconnected UDP socket can use at once and still have every reply named.
pub const UDP_PEERS: usize = 4;

/// Translations of one unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPeers {
    /// The last frontends used.
    pub peers: [UdpPeer; UDP_PEERS],
    /// Time of the last use, in sends.
    pub clock: u32,
    /// [`conn::reference`] of the frontend that the socket was connected to when it last sent elsewhere, 0 when it was
    /// not connected: translations older than a connection do not name what is heard through it.
    pub connected: u32,
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
    /// [`conn::reference`] of the frontend; 0 = empty.
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
    /// [`conn::reference`] of the frontend.
    pub reference: u32,
    /// Zero.
    pub pad: u32,
}

/// The backend of a client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Monotonic nanoseconds of the last connection.
    pub used: u64,
    /// Id of the backend.
    pub backend_id: u32,
    /// Zero.
    pub pad: u32,
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
    pub const DEPTH: i32 = 8;
}

/// Key of the counters that seldom count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RareKey {
    /// Frontend id.
    pub id: u32,
    /// One of [`rare`].
    pub kind: u32,
}

/// Kinds of [`RareKey`].
pub mod rare {
    /// The QoS limit was reached.
    pub const QOS_OVERFLOW: u32 = 0;
    /// No backend took the connection.
    pub const NO_BACKEND: u32 = 1;
    /// The client is exempt.
    pub const SKIPPED: u32 = 2;
    /// Number of kinds.
    pub const KINDS: u32 = 3;
}

/// Indexes of the statistics table.
pub mod stat {
    /// Slots of the connection table taken for the first time.
    pub const CONN_USED: u32 = 0;
    /// Slots of the connection table taken from another socket.
    pub const CONN_OVERWRITTEN: u32 = 1;
    /// First of the error counters, one a hook in the order of [`super::maps::PROGRAMS`].
    pub const ERRORS: u32 = 2;
    /// Number of indexes.
    pub const COUNT: u32 = ERRORS + 8;
}

/// Kind and name of the policy behind a service id; read by people only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyName {
    /// 0 = LocalRedirectPolicy, 1 = BalancingPolicy.
    pub kind: u32,
    /// Bytes of the name.
    pub length: u32,
    /// UTF-8; a Kubernetes name has at most 253 bytes.
    pub name: [u8; 256],
}

/// Switches that user space flips while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Bits of [`control`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// Bits of [`Control::flags`].
pub mod control {
    /// Somebody reads the events.
    pub const EVENTS: u32 = 1;
    /// The skip table has rows for every policy.
    pub const EXEMPT: u32 = 1 << 1;
}

/// One resolution, as a listener sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Monotonic nanoseconds.
    pub time: u64,
    /// Cgroup id of the calling task.
    pub cgroup: u64,
    /// Network namespace cookie of the socket.
    pub netns: u64,
    /// Address dialled.
    pub frontend: [u32; 4],
    /// Address it was resolved to; zero unless [`Event::outcome`] is [`outcome::REDIRECTED`].
    pub backend: [u32; 4],
    /// Port dialled.
    pub frontend_port: u16,
    /// Port it was resolved to.
    pub backend_port: u16,
    /// Policy that decided last.
    pub service_id: u32,
    /// Process id (thread group) of the caller.
    pub pid: u32,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// One of [`outcome`].
    pub outcome: u8,
    /// Zero.
    pub pad: [u8; 10],
}

/// Values of [`Event::outcome`].
pub mod outcome {
    /// Sent to a backend.
    pub const REDIRECTED: u8 = 0;
    /// Left as dialled.
    pub const PASSED: u8 = 1;
    /// Refused with EHOSTUNREACH.
    pub const REJECTED: u8 = 2;
}

/// The words of an IPv4 address in network order, as an IPv4-mapped IPv6 address.
#[inline(always)]
#[must_use]
pub const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, MAPPED, address]
}

/// Whether the words are an IPv4-mapped IPv6 address.
#[inline(always)]
#[must_use]
pub const fn is_mapped(address: &[u32; 4]) -> bool {
    address[0] | address[1] == 0 && address[2] == MAPPED
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of};

    use super::*;

    /// What the programs read by other means than the field's name, and what the kernel finds by its place.
    #[test]
    fn fields_are_where_both_sides_expect_them() {
        assert_eq!(
            offset_of!(Locked, frontend),
            0,
            "programs take a pointer to one as a pointer to the other"
        );
        assert_eq!(offset_of!(Locked, lock) % 4, 0, "the kernel's rule for locks");
        assert_eq!(offset_of!(Frontend, check), 0, "the sum covers all that follows");
        assert_eq!(offset_of!(Frontend, service_id), 8);
        assert_eq!(offset_of!(Frontend, target), 32);
        assert_eq!(offset_of!(Target, port), 16);
        assert_eq!(offset_of!(Target, id), 20);
        assert_eq!(align_of::<Frontend>(), 8);
        assert_eq!(offset_of!(Slot, id), 20);
        assert_eq!(offset_of!(Event, frontend), 24);
        assert_eq!(offset_of!(Event, protocol), 68);
    }

    #[test]
    fn kernel_names_fit() {
        // BPF_OBJ_NAME_LEN is 16, with the terminating zero.
        assert!(maps::ALL.iter().chain(&maps::PROGRAMS).all(|name| name.len() < 16));
        assert_eq!(maps::PROGRAMS.len() as u32, stat::COUNT - stat::ERRORS);
    }
}
