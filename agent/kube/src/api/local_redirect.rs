//! LocalRedirectPolicy.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    frontend::Frontend,
    name::{DNS_LABEL_LENGTH, dns_label},
    port::{PortInfo, named, paired, unique_names},
    selector::LabelSelector,
    status::PolicyStatus,
    yes,
};
use balancing_core::bounds::MAX_PORTS;

/// What is redirected, and to which pods of the same node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "LocalRedirectPolicy",
    plural = "localredirectpolicies",
    shortname = "lr",
    category = "balancing",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "LocalRedirectPolicy redirects new connections that pods and processes of a node make, to pods of the same node."
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = paired("frontend.addressMatcher", "backend"),
    validation = paired("frontend.serviceMatcher", "backend")
)]
pub struct LocalRedirectPolicySpec {
    /// False keeps the policy without effect.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Where the policy applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<LocalRedirectConfig>,
    /// What is redirected.
    pub frontend: Frontend,
    /// Where to: pods of the same node.
    pub backend: LocalRedirectBackend,
    /// True leaves connections alone that a selected backend pod makes to the frontend.
    #[serde(default)]
    pub skip_redirect_from_backend: bool,
    /// Redirections per frontend service, node and second; 0 means no limit. Overrides the global limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = u32::MAX))]
    pub qos_limit: Option<i64>,
    /// Whose connections are redirected: of pods, of the host, or of all. A pod with hostNetwork counts as the host.
    #[serde(default)]
    pub clients: Clients,
}

/// Where a LocalRedirectPolicy applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRedirectConfig {
    /// Nodes that apply the policy; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_label_selector: Option<LabelSelector>,
}

/// Pods of the same node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRedirectBackend {
    /// Labels of the pods, in any namespace; an empty selector means all pods.
    pub endpoint_selector: LabelSelector,
    /// Restricts the pods to one namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = DNS_LABEL_LENGTH))]
    #[x_kube(validation = dns_label())]
    pub namespace: Option<String>,
    /// Ports of the pods. The pods need not declare them.
    #[schemars(length(min = 1, max = MAX_PORTS))]
    #[x_kube(validation = named(), validation = unique_names())]
    pub to_ports: Vec<PortInfo>,
}

/// Whose connections are redirected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Clients {
    /// Of pods and of processes of the host.
    #[default]
    All,
    /// Of pods.
    Pods,
    /// Of processes of the host.
    Host,
}
