//! The JSON of `balancingctl fabric`: a contract. Fields may be added, never renamed.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::view::OwnerView;

/// How this host stands in the fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FabricView {
    /// `outside`, `waiting` or `member`.
    pub state: String,
    /// Why it is outside or waits, or what is wrong.
    pub message: Option<String>,
    /// The TunnelFabric.
    pub fabric: Option<String>,
    /// The TunnelNode of this host.
    pub member: Option<String>,
    /// The tunnel device.
    pub device: Option<String>,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// UDP port.
    pub port: Option<u16>,
    /// What fits through the tunnel.
    pub mtu: Option<u32>,
    /// Where peers dial this host.
    pub underlay: Vec<IpAddr>,
    /// Its tunnel addresses.
    pub addresses: Vec<IpAddr>,
    /// Annotations of the Node that an administrator has set in place of ours.
    pub overridden: Vec<String>,
    /// The other members.
    pub peers: Vec<PeerView>,
    /// What the proxy here forwards.
    pub forwards: Vec<ForwardView>,
    /// Packets dropped since the device came into being, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Connections of the proxy: in use, and room.
    pub connections: Option<(u64, u64)>,
    /// What is wrong with single members or settings of the host.
    pub problems: Vec<String>,
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    /// Its TunnelNode.
    pub name: String,
    /// Where it is dialled.
    pub underlay: Vec<IpAddr>,
    /// Its tunnel addresses.
    pub addresses: Vec<IpAddr>,
    /// What fits through its tunnel device.
    pub mtu: u32,
}

/// A port of this host's proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardView {
    /// Port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The policy that declares it.
    pub owner: OwnerView,
    /// Where it leads: `ADDRESS:PORT`.
    pub pods: Vec<String>,
}

/// What came of asking a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckView {
    /// Its TunnelNode.
    pub peer: String,
    /// The tunnel address that was asked.
    pub address: IpAddr,
    /// It answers.
    pub reachable: bool,
    /// Microseconds until it did.
    pub round_trip: Option<u64>,
    /// Bytes of the largest packet that got there.
    pub mtu: Option<u32>,
    /// What is wrong and what to do, in words.
    pub problem: Option<String>,
}
