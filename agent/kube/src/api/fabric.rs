//! TunnelFabric.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{
    network::{NETWORK_LENGTH, interfaces, network, networks, pool, tunnel_port},
    selector::LabelSelector,
    status::conditions_of,
};
use balancing_core::names::{DEFAULT_VNI, DEFAULT_VXLAN_PORT};

/// The tunnels between the nodes of the cluster and the hosts outside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "TunnelFabric",
    plural = "tunnelfabrics",
    shortname = "tf",
    category = "balancing",
    status = "TunnelFabricStatus",
    derive = "PartialEq",
    doc = "TunnelFabric connects the nodes of the cluster and hosts outside it by tunnels, through which redirectMode nodeProxy reaches pods. Nothing of it exists until there is one."
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = some_pool(), validation = mtu_of_ipv6())]
pub struct TunnelFabricSpec {
    /// Nodes that join; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Network of the IPv4 addresses in the tunnel, such as 10.211.0.0/16. Nothing else may use it. At least one of
    /// ipv4Pool and ipv6Pool.
    #[serde(default, rename = "ipv4Pool", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = NETWORK_LENGTH))]
    #[x_kube(
        validation = network()[0].clone(), validation = network()[1].clone(),
        validation = pool(4, 8, 30)[0].clone(), validation = pool(4, 8, 30)[1].clone()
    )]
    pub ipv4_pool: Option<String>,
    /// Network of the IPv6 addresses in the tunnel, such as fd00:10:211::/64.
    #[serde(default, rename = "ipv6Pool", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = NETWORK_LENGTH))]
    #[x_kube(
        validation = network()[0].clone(), validation = network()[1].clone(),
        validation = pool(6, 48, 126)[0].clone(), validation = pool(6, 48, 126)[1].clone()
    )]
    pub ipv6_pool: Option<String>,
    /// How packets travel between members.
    #[serde(default)]
    #[x_kube(validation = fixed())]
    pub vxlan: Vxlan,
    /// MTU in the tunnel: 576 to 65535; 0 means what the underlay leaves.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    #[x_kube(validation = mtu())]
    pub mtu: i32,
    /// Which address of a member its peers dial; without it the InternalIP of the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Underlay>,
    /// Who may send to the tunnel port.
    #[serde(default)]
    pub accept_from: AcceptFrom,
    /// Ports at the proxy addresses for policies that leave the choice to the controller.
    #[serde(default)]
    #[x_kube(validation = in_order())]
    pub proxy_ports: ProxyPorts,
}

/// How packets travel between members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vxlan {
    /// VXLAN network identifier, which no other tunnel of the nodes may have.
    #[serde(default = "vni")]
    #[schemars(range(min = 1, max = 16_777_215))]
    pub vni: i32,
    /// UDP port of the tunnel, open between all members; not 4789 or 8472.
    #[serde(default = "port")]
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(validation = tunnel_port())]
    pub port: i32,
}

/// Which address of a member its peers dial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Underlay {
    /// The address lies in one of these networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "networks")]
    pub cidrs: Vec<String>,
    /// The address is on one of these interfaces; a `*` at the end stands for the rest of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "interfaces")]
    pub interfaces: Vec<String>,
    /// Family of the address.
    #[serde(default)]
    pub ip_family: IpFamily,
}

/// Family of the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamily {
    /// What is there.
    #[default]
    Auto,
    /// IPv4 only.
    IPv4,
    /// IPv6 only.
    IPv6,
}

/// Who may send to the tunnel port: Members, by their underlay addresses, or Anyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AcceptFrom {
    /// Underlay addresses of members.
    #[default]
    Members,
    /// Everybody.
    Anyone,
}

/// A range of ports, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyPorts {
    /// First port.
    #[serde(default = "first_proxy_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub from: i32,
    /// Last port.
    #[serde(default = "last_proxy_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub to: i32,
}

/// What became of the fabric. Written by the controller, only on change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelFabricStatus {
    /// Generation of the fabric that this status tells about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Count of its TunnelNodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<i64>,
    /// Count of its TunnelAddressClaims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<i64>,
    /// Accepted, Overlaps and Exhausted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

impl Default for Vxlan {
    fn default() -> Self {
        Self { vni: vni(), port: port() }
    }
}

impl Default for ProxyPorts {
    fn default() -> Self {
        Self { from: first_proxy_port(), to: last_proxy_port() }
    }
}

fn vni() -> i32 {
    DEFAULT_VNI.cast_signed()
}

fn port() -> i32 {
    DEFAULT_VXLAN_PORT.into()
}

fn first_proxy_port() -> i32 {
    20_000
}

fn last_proxy_port() -> i32 {
    29_999
}

fn some_pool() -> Rule {
    Rule::new("has(self.ipv4Pool) || has(self.ipv6Pool)")
        .message("must have at least one of ipv4Pool and ipv6Pool; add one")
}

fn mtu() -> Rule {
    Rule::new("self == 0 || self >= 576")
        .message("must be 0 or an integer from 576 to 65535; write 0 to take what the underlay leaves")
}

fn mtu_of_ipv6() -> Rule {
    Rule::new("!has(self.ipv6Pool) || self.mtu == 0 || self.mtu >= 1280")
        .message("must be at least 1280 with an ipv6Pool; raise it or write 0")
        .field_path(".mtu")
}

/// Members with another number would not hear each other.
fn fixed() -> Rule {
    Rule::new("self == oldSelf")
        .message("vni and port never change; make another TunnelFabric and delete this one")
}

fn in_order() -> Rule {
    Rule::new("self.from <= self.to")
        .message("must not end before it begins; exchange or correct from and to")
}

fn conditions(_generator: &mut SchemaGenerator) -> Schema {
    conditions_of(
        "fabric",
        "Accepted: the fabric is valid, the only one in force, and its pools overlapped nothing. Overlaps: something of the cluster has got an address of a pool since. \
         Exhausted: a pool has no address left.",
    )
}
