//! Names and default sizes of the tables, and the names of the programs.

/// Buckets of the index: blocks of `u32`, see [`super::index`].
pub const INDEX: &str = "index";
/// Addresses that are or were backends: blocks of `u64`, see [`super::known`].
pub const KNOWN: &str = "known";
/// State of each CPU's random numbers, a cache line each.
pub const RANDOM: &str = "random";
/// Slots of frontends: `Frontend`.
pub const FRONTENDS: &str = "frontends";
/// Backend sets: index → `Slot`.
pub const BACKENDS: &str = "backends";
/// What was dialled: frontend id → `Name`.
pub const NAMES: &str = "names";
/// Redirections: CPU × number of ids + frontend id → `u64`.
pub const REDIRECTED: &str = "redirected";
/// Other counters: frontend id → `RareCounters`.
pub const RARE: &str = "rare";
/// Connected sockets: cookie modulo size → record.
pub const CONNECTIONS: &str = "connections";
/// Unconnected UDP sockets: socket → `UdpPeers`.
pub const UDP_PEERS: &str = "udp_peers";
/// Clients with affinity: `AffinityKey` → `Affinity::word`.
pub const AFFINITY: &str = "affinity";
/// QoS windows: `Window`.
pub const QOS: &str = "qos";
/// Exempt clients: `SkipKey` → 1.
pub const SKIPS: &str = "skips";
/// Policies by service id; only for people.
pub const POLICIES: &str = "policies";
/// Statistics, per CPU.
pub const STATS: &str = "stats";
/// Switches, seed and epoch.
pub const CONTROL: &str = "control";
/// Events for listeners.
pub const EVENTS: &str = "events";

/// Every map.
pub const ALL: [&str; 17] = [
    INDEX,
    KNOWN,
    RANDOM,
    FRONTENDS,
    BACKENDS,
    NAMES,
    REDIRECTED,
    RARE,
    CONNECTIONS,
    UDP_PEERS,
    AFFINITY,
    QOS,
    SKIPS,
    POLICIES,
    STATS,
    CONTROL,
    EVENTS,
];

/// Every program; the position is the index of its error counter.
pub const PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Default sizes.
pub mod size {
    /// Layers of all frontends.
    pub const FRONTENDS: u32 = 65_536;
    /// Slots of frontends beyond that: for what was replaced and waits for a grace period.
    pub const SPARE: u32 = 4_096;
    /// Slots of all backend sets; a lone backend without affinity and limit takes none.
    pub const BACKENDS: u32 = 65_536;
    /// Connected sockets that keep the name of their frontend.
    pub const CONNECTIONS: u32 = 262_144;
    /// Clients with affinity.
    pub const AFFINITY: u32 = 8_192;
    /// Policies that commands can name without an agent.
    pub const POLICIES: u32 = 65_536;
    /// Policies with a QoS limit.
    pub const QOS: u32 = 8_192;
    /// Exempt clients times policies.
    pub const SKIPS: u32 = 8_192;
    /// Bytes of the event buffer.
    pub const EVENTS: u32 = 1 << 16;
}
