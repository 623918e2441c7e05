//! BalancingPolicy.

use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address::{self, Address},
    frontend::{Frontend, exactly_one},
    name::{DNS_LABEL_LENGTH, dns_label},
    port::{BackendPortInfo, PortInfo, named, paired, unique_names},
    selector::LabelSelector,
    status::PolicyStatus,
    yes,
};
use balancing_core::bounds::MAX_PORTS;

/// What is balanced, and over which backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "BalancingPolicy",
    plural = "balancingpolicies",
    shortname = "bl",
    category = "balancing",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "BalancingPolicy balances new connections where they are made: in pods, on nodes and on hosts outside the cluster."
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = paired("frontend.addressMatcher", "backend.serviceEndpoint"),
    validation = paired("frontend.addressMatcher", "backend.addressEndpoint"),
    validation = paired("frontend.serviceMatcher", "backend.serviceEndpoint"),
    validation = paired("frontend.serviceMatcher", "backend.addressEndpoint"),
    validation = affinity_config()
)]
pub struct BalancingPolicySpec {
    /// False keeps the policy without effect.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Where the policy applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BalancingConfig>,
    /// What is balanced. A serviceMatcher stands for the ClusterIPs, external IPs and load balancer addresses.
    pub frontend: Frontend,
    /// Over which backends.
    pub backend: BalancingBackend,
    /// ClientIP keeps the connections of a client at one backend.
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    /// Only with sessionAffinity ClientIP: how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// What happens while there is no backend. The description in the schema is that of the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_backend: Option<OnNoBackend>,
}

/// Where a BalancingPolicy applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BalancingConfig {
    /// Nodes that apply the policy; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_label_selector: Option<LabelSelector>,
    /// Whether agents on hosts outside the cluster apply the policy.
    #[serde(default = "yes")]
    pub enable_out_cluster: bool,
}

/// Backends. Exactly one of serviceEndpoint and addressEndpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one("serviceEndpoint", "addressEndpoint"))]
pub struct BalancingBackend {
    /// Pods of the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_endpoint: Option<ServiceEndpoint>,
    /// Addresses of your choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_endpoint: Option<AddressEndpoint>,
}

/// Pods of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = targets(), validation = automatic())]
pub struct ServiceEndpoint {
    /// Labels of the pods, in any namespace; an empty selector means all pods.
    pub endpoint_selector: LabelSelector,
    /// Restricts the pods to one namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = DNS_LABEL_LENGTH))]
    #[x_kube(validation = dns_label())]
    pub namespace: Option<String>,
    /// podEndpoint: to the pod's address; hostPort: to the hostPort at the address of the pod's node;
    /// nodeProxy: to the proxy address of the pod's node.
    #[serde(default)]
    pub redirect_mode: RedirectMode,
    /// Ports of the backends.
    #[schemars(length(min = 1, max = MAX_PORTS))]
    #[x_kube(validation = named(), validation = unique_names())]
    pub to_ports: Vec<BackendPortInfo>,
}

/// Addresses of your choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressEndpoint {
    /// IPv4 or IPv6 addresses, each as text or as an object with ip and weight. No address twice.
    #[schemars(schema_with = "address::list")]
    pub addresses: Vec<Address>,
    /// Ports of the addresses.
    #[schemars(length(min = 1, max = MAX_PORTS))]
    #[x_kube(validation = named(), validation = unique_names())]
    pub to_ports: Vec<PortInfo>,
}

/// Settings of session affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    /// Settings of ClientIP.
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpConfig>,
}

/// Settings of ClientIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds after its last connection that a client is remembered, 1 to 86400 as in a Service.
    #[serde(default = "three_hours")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: i32,
}

/// How pods are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RedirectMode {
    /// At their address.
    #[default]
    PodEndpoint,
    /// At a hostPort of their node.
    HostPort,
    /// At the proxy address of their node.
    NodeProxy,
}

/// Whether a client keeps its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionAffinity {
    /// No.
    #[default]
    None,
    /// By its address.
    ClientIP,
}

/// What happens while there is no backend, or only backends of weight 0: Fallback lets the connection go where it was dialled,
/// Reject refuses it. Without it Fallback for a serviceMatcher and Reject for an addressMatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnNoBackend {
    /// The connection goes where it was dialled.
    Fallback,
    /// The connection is refused.
    Reject,
}

fn affinity_config() -> Rule {
    Rule::new("!has(self.sessionAffinityConfig) || self.sessionAffinity == 'ClientIP'")
        .message("is only allowed with sessionAffinity: ClientIP; remove it or set sessionAffinity")
        .field_path(".sessionAffinityConfig")
}

fn targets() -> Rule {
    Rule::new("self.redirectMode == 'nodeProxy' || self.toPorts.all(p, !has(p.targetPort))")
        .message("targetPort is only allowed with redirectMode: nodeProxy; remove it")
        .field_path(".toPorts")
}

fn automatic() -> Rule {
    Rule::new("self.redirectMode == 'nodeProxy' || self.toPorts.all(p, '%s'.format([p.port]) != '0')")
        .message("every port must be a port from 1 to 65535; 0 is only allowed with redirectMode: nodeProxy")
        .field_path(".toPorts")
}

fn three_hours() -> i32 {
    10_800
}
