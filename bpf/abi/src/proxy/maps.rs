//! Names and default sizes of the tables, and the names of the programs.

/// What is declared: `FrontendKey` → index of a `Service`.
pub const FRONTENDS: &str = "frontends";
/// Services: `Service`.
pub const SERVICES: &str = "services";
/// Backends of services: `Backend`.
pub const BACKENDS: &str = "backends";
/// `ConnectionKey` → `Connection`.
pub const CONNECTIONS: &str = "connections";
/// Clients with affinity: `AffinityKey` → `sockets::Affinity::word`.
pub const AFFINITY: &str = "affinity";
/// Packets in pieces: `FragmentKey` → `Fragment`.
pub const FRAGMENTS: &str = "fragments";
/// Counters per CPU, see [`super::counter`].
pub const COUNTERS: &str = "counters";
/// Own addresses and the writer's memory: `Control`.
pub const CONTROL: &str = "control";

/// Every map.
pub const ALL: [&str; 8] =
    [FRONTENDS, SERVICES, BACKENDS, CONNECTIONS, AFFINITY, FRAGMENTS, COUNTERS, CONTROL];

/// Default sizes.
pub mod size {
    /// Declared (address, port, protocol).
    pub const FRONTENDS: u32 = 16_384;
    /// Services beyond that, and the index that names none: for what was replaced and waits for a grace period.
    pub const SPARE: u32 = 1_024;
    /// Backends of all services.
    pub const BACKENDS: u32 = 65_536;
    /// Rows of connections, two a connection.
    pub const CONNECTIONS: u32 = 262_144;
    /// Clients with affinity.
    pub const AFFINITY: u32 = 65_536;
    /// Packets in pieces.
    pub const FRAGMENTS: u32 = 8_192;
}
