//! The objects of the nodeProxy fabric: what an administrator asks for, who takes part, and which addresses are taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{InvalidSpec, LabelSelector};

/// `TunnelFabric`: the tunnels between the members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelFabric {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since 1970; absent counts as younger than any.
    pub created: Option<i64>,
    /// `metadata.generation`, 0 when absent.
    pub generation: i64,
    /// What the controller says of this generation.
    pub acceptance: Acceptance,
    /// The validated spec, or everything that is wrong with it.
    pub spec: Result<FabricSpec, InvalidSpec>,
}

/// What the controller says of a TunnelFabric, which it holds against the networks of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Acceptance {
    /// Nothing yet.
    #[default]
    Pending,
    /// `Accepted=True`
    Accepted,
    /// `Accepted=False`, with its message.
    Refused(String),
}

/// `spec` of a [`TunnelFabric`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FabricSpec {
    /// `nodeSelector`: nodes that join.
    pub node_selector: LabelSelector,
    /// `ipv4Pool`; at least one of the pools is there.
    pub ipv4_pool: Option<Ipv4Network>,
    /// `ipv6Pool`
    pub ipv6_pool: Option<Ipv6Network>,
    /// `vxlan.vni`, 1..=16777215.
    pub vni: u32,
    /// `vxlan.port`, never 4789 or 8472.
    pub port: u16,
    /// `mtu` of the tunnel device; `None` = what the underlay leaves.
    pub mtu: Option<u32>,
    /// `underlay`
    pub underlay: Underlay,
    /// `acceptFrom`
    pub accept_from: AcceptFrom,
    /// `proxyPorts.from` and `proxyPorts.to`, both included.
    pub proxy_ports: (u16, u16),
}

/// `spec.underlay`: which local address peers dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Underlay {
    /// `cidrs`: it lies in one of these.
    pub cidrs: Vec<IpNetwork>,
    /// `interfaces`: it is on one of these; a trailing `*` stands for the rest of the name.
    pub interfaces: Vec<String>,
    /// `ipFamily`
    pub family: UnderlayFamily,
}

/// `spec.underlay.ipFamily`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum UnderlayFamily {
    /// What is there.
    #[default]
    Auto,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// `spec.acceptFrom`: who may send to the tunnel port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AcceptFrom {
    /// Underlay addresses of members.
    #[default]
    Members,
    /// Everybody.
    Anyone,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberKind {
    /// A node of the cluster.
    Node,
    /// A host outside the cluster.
    ExternalHost,
}

/// `TunnelNode`: a member of a fabric, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelNode {
    /// `metadata.name`: see [`MemberKind::object_name`].
    pub name: String,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since 1970; absent counts as younger than any.
    pub created: Option<i64>,
    /// Condition `Claimed` of its status is `False`: the controller finds no claim of one of its addresses.
    pub lacks_claim: bool,
    /// The validated spec, or everything that is wrong with it.
    pub spec: Result<MemberSpec, InvalidSpec>,
}

/// `spec` of a [`TunnelNode`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberSpec {
    /// `fabric`: name of its TunnelFabric.
    pub fabric: String,
    /// `kind`
    pub kind: MemberKind,
    /// `name` of the Node or ExternalHost.
    pub name: String,
    /// `uid` of the Node or ExternalHost.
    pub uid: String,
    /// `underlay.ipv4`: where peers dial it; at least one family is there.
    pub underlay_v4: Option<Ipv4Addr>,
    /// `underlay.ipv6`
    pub underlay_v6: Option<Ipv6Addr>,
    /// `port` of the tunnel.
    pub port: u16,
    /// `mac` of its tunnel device.
    pub mac: [u8; 6],
    /// `addresses` in the tunnel, at least one.
    pub addresses: Vec<IpAddr>,
    /// `mtu` of its tunnel device.
    pub mtu: u32,
}

/// `ExternalHost`: the permission of one host outside the cluster to be a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExternalHost {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since 1970; absent counts as younger than any.
    pub created: Option<i64>,
    /// The validated spec, or everything that is wrong with it.
    pub spec: Result<ExternalHostSpec, InvalidSpec>,
}

/// `spec` of an [`ExternalHost`]. Exactly one of user and service account is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExternalHostSpec {
    /// `fabric`: name of its TunnelFabric.
    pub fabric: String,
    /// `user`: name by which it authenticates.
    pub user: Option<String>,
    /// `serviceAccountName`, in the namespace of the agents.
    pub service_account: Option<String>,
    /// `underlayCIDRs`: where its underlay address may lie, at least one.
    pub underlay_cidrs: Vec<IpNetwork>,
    /// `paused`: it takes no part for now.
    pub paused: bool,
}

/// `TunnelAddressClaim`: an address that is taken. Its creation is the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelAddressClaim {
    /// `metadata.name`: see [`crate::claims::claim_name`].
    pub name: String,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since 1970; absent counts as younger than any.
    pub created: Option<i64>,
    /// The validated spec, or everything that is wrong with it.
    pub spec: Result<ClaimSpec, InvalidSpec>,
}

/// `spec` of a [`TunnelAddressClaim`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimSpec {
    /// `fabric`: name of its TunnelFabric.
    pub fabric: String,
    /// `address`
    pub address: IpAddr,
    /// `owner`
    pub owner: Owner,
}

/// Who an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// `kind`
    pub kind: MemberKind,
    /// `name` of the Node or ExternalHost.
    pub name: String,
    /// `uid` of the Node or ExternalHost: another one of the same name inherits nothing.
    pub uid: String,
}

impl MemberKind {
    /// The `kind` of the object.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::ExternalHost => "ExternalHost",
        }
    }

    /// Name of the TunnelNode of the Node or ExternalHost of this name; its Lease is named alike.
    #[must_use]
    pub fn object_name(self, name: &str) -> String {
        match self {
            Self::Node => format!("node.{name}"),
            Self::ExternalHost => format!("host.{name}"),
        }
    }
}

impl FabricSpec {
    /// The pools.
    pub fn pools(&self) -> impl Iterator<Item = IpNetwork> {
        self.ipv4_pool.map(IpNetwork::V4).into_iter().chain(self.ipv6_pool.map(IpNetwork::V6))
    }
}

impl MemberSpec {
    /// The addresses where peers dial it.
    pub fn underlay(&self) -> impl Iterator<Item = IpAddr> {
        self.underlay_v4.map(IpAddr::V4).into_iter().chain(self.underlay_v6.map(IpAddr::V6))
    }

    /// The Node or ExternalHost that it is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner { kind: self.kind, name: self.name.clone(), uid: self.uid.clone() }
    }
}

impl Underlay {
    /// Whether peers may dial addresses of this interface; any, where none is named.
    #[must_use]
    pub fn takes_interface(&self, name: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        self.interfaces.is_empty() || self.interfaces.iter().any(matches)
    }
}
