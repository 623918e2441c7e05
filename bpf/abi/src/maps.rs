//! Names and default sizes of the tables, and the names of the programs.

/// IPv4 frontends: `Key4` → `Frontend`.
pub const FRONTENDS4: &str = "frontends4";
/// IPv6 frontends: `Key6` → `Frontend`.
pub const FRONTENDS6: &str = "frontends6";
/// Backend sets: index → `Slot`.
pub const BACKENDS: &str = "backends";
/// What was dialled: frontend id → `Name`.
pub const NAMES: &str = "names";
/// Redirections, per CPU: frontend id → `u64`.
pub const REDIRECTED: &str = "redirected";
/// Other counters, per CPU: `RareKey` → `u64`.
pub const RARE: &str = "rare";
/// Connected sockets: cookie modulo size → record.
pub const CONNECTIONS: &str = "connections";
/// Unconnected UDP sockets: socket → `UdpPeers`.
pub const UDP_PEERS: &str = "udp_peers";
/// Clients with affinity: `AffinityKey` → `Affinity`.
pub const AFFINITY: &str = "affinity";
/// QoS windows: service id → second and count.
pub const QOS: &str = "qos";
/// Exempt clients: `SkipKey` → 1.
pub const SKIPS: &str = "skips";
/// Policies by service id; only for people.
pub const POLICIES: &str = "policies";
/// Statistics, per CPU.
pub const STATS: &str = "stats";
/// Switches.
pub const CONTROL: &str = "control";
/// Events for listeners.
pub const EVENTS: &str = "events";

/// Every map, in the order in which `status` lists them.
pub const ALL: [&str; 15] = [
    FRONTENDS4,
    FRONTENDS6,
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
    /// Frontends of one family, both layers.
    pub const FRONTENDS: u32 = 65_536;
    /// Slots of all backend sets; sets of one backend take none.
    pub const BACKENDS: u32 = 65_536;
    /// Connected sockets that keep the name of their frontend.
    pub const CONNECTIONS: u32 = 262_144;
    /// Clients with affinity.
    pub const AFFINITY: u32 = 8_192;
    /// Policies that commands can name without an agent.
    pub const POLICIES: u32 = 16_384;
    /// Policies with a QoS limit.
    pub const QOS: u32 = 8_192;
    /// Exempt clients times policies.
    pub const SKIPS: u32 = 8_192;
    /// Counters that seldom count.
    pub const RARE: u32 = 8_192;
    /// Bytes of the event buffer.
    pub const EVENTS: u32 = 1 << 16;
}
