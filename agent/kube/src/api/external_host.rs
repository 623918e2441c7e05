//! ExternalHost.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    frontend::exactly_one,
    name::{DNS_SUBDOMAIN_LENGTH, dns_subdomain},
    network::some_networks,
    status::conditions_of,
};

/// A host outside the cluster that may join a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "ExternalHost",
    plural = "externalhosts",
    shortname = "xh",
    category = "balancing",
    status = "ExternalHostStatus",
    derive = "PartialEq",
    doc = "ExternalHost is the permission of one host outside the cluster to join a TunnelFabric. An administrator makes it."
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one("user", "serviceAccountName"))]
pub struct ExternalHostSpec {
    /// Name of the TunnelFabric.
    #[schemars(length(max = DNS_SUBDOMAIN_LENGTH))]
    #[x_kube(validation = dns_subdomain())]
    pub fabric: String,
    /// User by which the host authenticates, in the group balancing:external-hosts. Exactly one of user and serviceAccountName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = plain_user())]
    pub user: Option<String>,
    /// Service account of the host, in the namespace of the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = DNS_SUBDOMAIN_LENGTH))]
    #[x_kube(validation = dns_subdomain())]
    pub service_account_name: Option<String>,
    /// Networks in which the underlay address of the host may lie.
    #[serde(rename = "underlayCIDRs")]
    #[schemars(schema_with = "some_networks")]
    pub underlay_cidrs: Vec<String>,
    /// True keeps the host out of the fabric for now.
    #[serde(default)]
    pub paused: bool,
}

/// How the host is doing. Written by the controller, only on change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalHostStatus {
    /// Name of its TunnelNode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_node: Option<String>,
    /// When its agent renewed its Lease, to within some minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time")]
    pub last_renewal: Option<String>,
    /// Joined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

fn plain_user() -> Rule {
    Rule::new("!self.startsWith('system:')").message(
        "must be a user name of 1 to 253 characters that does not begin with 'system:'; a service account is named by \
         serviceAccountName",
    )
}

fn time(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

fn conditions(_generator: &mut SchemaGenerator) -> Schema {
    conditions_of("host", "Joined: the host has a TunnelNode and renews its Lease.")
}
