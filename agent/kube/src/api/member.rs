//! TunnelNode.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{
    name::{DNS_SUBDOMAIN_LENGTH, dns_subdomain},
    network::{ADDRESS_LENGTH, MAC_LENGTH, family, mac, tunnel_addresses, tunnel_port, unicast},
    status::conditions_of,
};

/// A member of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "TunnelNode",
    plural = "tunnelnodes",
    shortname = "tn",
    category = "balancing",
    status = "TunnelNodeStatus",
    derive = "PartialEq",
    validation = own_name(),
    doc = "TunnelNode is a member of a TunnelFabric: a node, or a host outside the cluster. Its agent writes it."
)]
#[serde(rename_all = "camelCase")]
pub struct TunnelNodeSpec {
    /// Name of the TunnelFabric.
    #[schemars(length(max = DNS_SUBDOMAIN_LENGTH))]
    #[x_kube(validation = dns_subdomain())]
    pub fabric: String,
    /// What the member is. The description in the schema is that of the type.
    pub kind: MemberKind,
    /// Name of the Node or ExternalHost. The object itself is named node.NAME or host.NAME.
    #[schemars(length(max = DNS_SUBDOMAIN_LENGTH))]
    #[x_kube(validation = dns_subdomain())]
    pub name: String,
    /// UID of the Node or ExternalHost.
    #[schemars(length(min = 1, max = 128))]
    pub uid: String,
    /// Where peers dial the member.
    #[x_kube(validation = some_family())]
    pub underlay: UnderlayAddresses,
    /// UDP port of the tunnel.
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(validation = tunnel_port())]
    pub port: i32,
    /// MAC address of the tunnel device.
    #[schemars(length(max = MAC_LENGTH))]
    #[x_kube(validation = mac()[0].clone(), validation = mac()[1].clone())]
    pub mac: String,
    /// Addresses in the tunnel.
    #[schemars(schema_with = "tunnel_addresses")]
    pub addresses: Vec<String>,
    /// MTU of the tunnel device.
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: i32,
}

/// A node of the cluster, or a host outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberKind {
    /// A Node.
    Node,
    /// An ExternalHost.
    ExternalHost,
}

/// Underlay addresses. At least one of ipv4 and ipv6.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnderlayAddresses {
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ADDRESS_LENGTH))]
    #[x_kube(
        validation = unicast()[0].clone(), validation = unicast()[1].clone(), validation = unicast()[2].clone(),
        validation = family(4)
    )]
    pub ipv4: Option<String>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ADDRESS_LENGTH))]
    #[x_kube(
        validation = unicast()[0].clone(), validation = unicast()[1].clone(), validation = unicast()[2].clone(),
        validation = family(6)
    )]
    pub ipv6: Option<String>,
}

/// What the controller says of the member. Written only on change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelNodeStatus {
    /// Conflicted and Claimed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

fn own_name() -> Rule {
    Rule::new("self.metadata.name == (self.spec.kind == 'Node' ? 'node.' : 'host.') + self.spec.name")
        .message("must be what metadata.name says: node.NAME of a Node, host.NAME of an ExternalHost")
        .field_path(".spec.name")
}

fn some_family() -> Rule {
    Rule::new("has(self.ipv4) || has(self.ipv6)").message("must have at least one of ipv4 and ipv6; add one")
}

fn conditions(_generator: &mut SchemaGenerator) -> Schema {
    conditions_of(
        "member",
        "Conflicted: another TunnelNode has a better right to one of its addresses. Claimed: each of its addresses has a claim.",
    )
}
