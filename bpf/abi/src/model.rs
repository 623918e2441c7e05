//! What a caller asks of the data plane, in plain types.
//!
//! These are the vocabulary of the whole user side: the agent resolves policies into [`Entry`]s, the
//! tables encode them. Nothing here knows a map, a file descriptor or a Kubernetes object.

use std::{collections::BTreeSet, fmt, net::IpAddr, num::NonZeroU32, string::String, vec::Vec};

pub use crate::sockets::LAYERS;

/// Transport protocols whose connections can be redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, including its use through MPTCP's subflows of the kernel.
    Tcp,
    /// UDP, connected or not.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// The address an application dials.
///
/// `address` is never an IPv4-mapped IPv6 address: mapped addresses are IPv4 ones here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The dialled address.
    pub address: IpAddr,
    /// The dialled port, 1..=65535.
    pub port: u16,
    /// The socket's protocol.
    pub protocol: Protocol,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// Where a connection may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address of the frontend's family.
    pub address: IpAddr,
    /// Port, 1..=65535.
    pub port: u16,
    /// Share of new connections relative to the other backends; 0 gets no new connection but keeps
    /// the clients it has (session affinity, unconnected UDP).
    pub weight: u32,
}

/// Who is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clients {
    /// Pods and processes of the host.
    All,
    /// Sockets in a pod's network namespace.
    Pods,
    /// Sockets in the host's network namespace.
    Host,
}

/// A client that is recognised whatever address it has: the pod behind `skipRedirectFromBackend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientId {
    /// `SO_NETNS_COOKIE` of the client's network namespace.
    NetnsCookie(u64),
    /// Inode of the client's cgroup2 directory; processes of its children are recognised too.
    Cgroup(u64),
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetnsCookie(cookie) => write!(f, "of network namespace {cookie}"),
            Self::Cgroup(id) => write!(f, "of cgroup {id}"),
        }
    }
}

/// One policy's decision for a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// `serviceId` of the policy; names it in counters, events and commands.
    pub service_id: u32,
    /// Sorted by address and port, no duplicates.
    pub backends: Vec<Backend>,
    /// Sockets to which the layer applies.
    pub clients: Clients,
    /// Redirections a second, shared by all frontends with the same `window`.
    pub qos_limit: Option<NonZeroU32>,
    /// Whose limit it is, not 0. It stays with the policy when the service id changes, so that no second is counted anew.
    pub window: u64,
    /// Seconds a client keeps its backend (`ClientIP` affinity).
    pub affinity: Option<NonZeroU32>,
    /// Without a backend: refuse with EHOSTUNREACH instead of falling through.
    pub reject: bool,
    /// Clients to which the layer does not apply.
    pub skip: BTreeSet<ClientId>,
}

/// Everything the kernel knows about one frontend: the deciding layer and those that decide one after the other where
/// the one above stands aside (no backend, QoS limit reached, skipped, other clients).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the first to the last, one to [`LAYERS`]. Where the last stands aside, the connection goes where it was dialled.
    pub layers: Vec<Layer>,
}

/// The kinds of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `LocalRedirectPolicy`: backends on this node, decides before the other kind.
    LocalRedirect,
    /// `BalancingPolicy`: backends anywhere.
    Balancing,
}

impl PolicyKind {
    /// The Kubernetes kind.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::LocalRedirect => "LocalRedirectPolicy",
            Self::Balancing => "BalancingPolicy",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// The policy behind a `service_id`, kept beside the tables so that commands can name it while no
/// agent runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    /// Its kind.
    pub kind: PolicyKind,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Entry {
    /// The same decision in the one form in which the tables hold it, so that two entries that mean the same are equal:
    /// weights without common divisor and within 16 bits, backends sorted.
    #[must_use]
    pub fn normalized(&self) -> Self {
        Self { layers: self.layers.iter().map(Layer::normalized).collect() }
    }
}

impl Layer {
    fn normalized(&self) -> Self {
        let mut layer = self.clone();
        layer.backends.sort_unstable();
        let divisor = layer.backends.iter().fold(0, |d, b| gcd(d, b.weight)).max(1);
        let largest = layer.backends.iter().map(|b| b.weight / divisor).max().unwrap_or(0);
        // Beyond 16 bits the shares are rounded; no weight above zero becomes zero.
        let shrink = largest.div_ceil(u32::from(u16::MAX)).max(1);
        for backend in &mut layer.backends {
            if backend.weight != 0 {
                backend.weight = (backend.weight / divisor / shrink).max(1);
            }
        }
        // Without backends nothing is limited and nobody is kept; without a limit there is no window.
        if layer.backends.is_empty() {
            layer.affinity = None;
            layer.qos_limit = None;
        }
        if layer.qos_limit.is_none() {
            layer.window = 0;
        }
        layer
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(weights: &[u32]) -> Layer {
        Layer {
            service_id: 1,
            window: 0,
            backends: weights
                .iter()
                .enumerate()
                .map(|(i, w)| Backend { address: [10, 0, 0, i as u8].into(), port: 80, weight: *w })
                .collect(),
            clients: Clients::All,
            qos_limit: None,
            affinity: None,
            reject: false,
            skip: BTreeSet::new(),
        }
    }

    fn weights(layer: &Layer) -> Vec<u32> {
        layer.backends.iter().map(|b| b.weight).collect()
    }

    #[test]
    fn equal_shares_have_one_form() {
        assert_eq!(weights(&layer(&[100, 50, 0]).normalized()), [2, 1, 0]);
        assert_eq!(weights(&layer(&[7]).normalized()), [1]);
        assert_eq!(weights(&layer(&[0, 0]).normalized()), [0, 0]);
    }

    #[test]
    fn large_weights_fit_sixteen_bits_and_none_vanishes() {
        let normal = layer(&[1, 200_000]).normalized();
        assert!(normal.backends.iter().all(|b| (1..=65_535).contains(&b.weight)));
    }
}
