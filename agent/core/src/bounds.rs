//! The most a policy may hold. Both the API server and the agent keep to these.

/// Ports of a list.
pub const MAX_PORTS: usize = 64;
/// Addresses of an `addressEndpoint`.
pub const MAX_ADDRESSES: usize = 1024;
/// Networks of a list.
pub const MAX_NETWORKS: usize = 32;
/// Names of interfaces.
pub const MAX_INTERFACES: usize = 32;
/// Tunnel addresses of one member: one of each family, and as many of a pool that is on its way out.
pub const MAX_TUNNEL_ADDRESSES: usize = 4;
/// Labels of `matchLabels`.
pub const MAX_LABELS: usize = 64;
/// Expressions of `matchExpressions`.
pub const MAX_EXPRESSIONS: usize = 64;
/// Values of one expression.
pub const MAX_VALUES: usize = 256;
/// External addresses of a Service that a policy claims.
pub const MAX_EXTERNAL: usize = 1024;
