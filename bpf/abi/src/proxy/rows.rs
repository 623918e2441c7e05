//! What is declared, and what clients and fragments leave behind.

use crate::plain;

plain!(
    FrontendKey = 20,
    Service = 44,
    Backend = 36,
    AffinityKey = 20,
    FragmentKey = 40,
    Fragment = 32,
    Control = 88
);

/// A port of the proxy.
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

/// Bits of [`Service::flags`].
pub mod flags {
    /// No backend has a weight: none is drawn.
    pub const DRAINED: u32 = 1;
    /// Clients are to be refused while there is no backend; a note of user space.
    pub const REJECT: u32 = 2;
}

/// Where a port leads. Never changes while the map of frontends names it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Whose it is.
    pub key: FrontendKey,
    /// Index of the first backend; they are sorted by id.
    pub first: u32,
    /// Number of backends.
    pub count: u32,
    /// How long a client keeps its backend, in ticks of [`crate::sockets::Affinity`]; 0 = no affinity.
    pub affinity: u32,
    /// Policy; for user space.
    pub service_id: u32,
    /// Affinity in seconds; for user space.
    pub affinity_seconds: u32,
    /// Bits of [`flags`].
    pub flags: u32,
}

/// A backend: a row of its service's alias table, too ([`crate::sockets::pick`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address in network order, IPv4 as mapped.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// Id, the same as long as any service has the backend. Never 0.
    pub id: u32,
    /// See [`crate::sockets::pick::Alias`].
    pub threshold: u32,
    /// See [`crate::sockets::pick::Alias`].
    pub alias: u32,
    /// Weight, for user space.
    pub weight: u32,
}

/// Key of the affinity table. The own address is not part of it: there is one of the client's family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityKey {
    /// Address of the client.
    pub client: [u32; 4],
    /// Port of the frontend.
    pub port: u16,
    /// Protocol of the frontend.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Which packet a piece is of, before anything is changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source of the packet.
    pub source: [u32; 4],
    /// Destination of the packet.
    pub destination: [u32; 4],
    /// Identification, as in the header.
    pub id: u32,
    /// Protocol of the whole.
    pub protocol: u8,
    /// [`super::direction`].
    pub direction: u8,
    /// Zero.
    pub pad: u16,
}

/// What the first piece decided.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Time of the first piece in nanoseconds.
    pub seen: u64,
    /// What replaces the destination (ingress) or the source (egress).
    pub address: [u32; 4],
    /// Bytes of the transport header: no other piece may begin within.
    pub header: u32,
    /// Zero.
    pub pad: u32,
}

impl Fragment {
    /// How long later pieces may take: as long as the kernel keeps pieces.
    pub const LIFETIME: u64 = 30 * 1_000_000_000;
}

/// The only row of its table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Own addresses, IPv4 (mapped) and IPv6, in two copies; all zero = none.
    pub local: [[[u32; 4]; 2]; 2],
    /// The copy that counts.
    pub active: u32,
    /// The backend id that was given away last; for user space.
    pub last_backend_id: u32,
    /// Changes whenever a backend leaves a service.
    pub generation: u32,
    /// Zero.
    pub pad: u32,
    /// Rows of connections that user space has removed; for user space.
    pub rows_swept: u64,
}
