//! `spec.frontend` of both kinds.

use kube::{KubeSchema, core::Rule};
use serde::{Deserialize, Serialize};

use super::{
    address::{IP_LENGTH, ip_syntax, not_multicast, not_unspecified},
    name::{DNS_LABEL_LENGTH, dns_label},
    port::{PortInfo, named, unique_names, unique_ports},
};
use balancing_core::bounds::MAX_PORTS;

/// What is redirected: an address, or the addresses of a Service. Exactly one of addressMatcher and serviceMatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one("addressMatcher", "serviceMatcher"))]
pub struct Frontend {
    /// A virtual address of your choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_matcher: Option<AddressMatcher>,
    /// A Service of the cluster: its ClusterIPs, for a BalancingPolicy also those externalIPs and load-balancer addresses
    /// that belong to nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_matcher: Option<ServiceMatcher>,
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressMatcher {
    /// IPv4 or IPv6 address. One that is also the ClusterIP of a Service belongs to the policy.
    #[schemars(length(max = IP_LENGTH))]
    #[x_kube(validation = ip_syntax(), validation = not_unspecified(), validation = not_multicast())]
    pub ip: String,
    /// Ports of the address.
    #[schemars(length(min = 1, max = MAX_PORTS))]
    #[x_kube(validation = named(), validation = unique_names(), validation = unique_ports())]
    pub to_ports: Vec<PortInfo>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMatcher {
    /// Name of the Service.
    #[schemars(length(max = DNS_LABEL_LENGTH))]
    #[x_kube(validation = dns_label())]
    pub service_name: String,
    /// Namespace of the Service.
    #[schemars(length(max = DNS_LABEL_LENGTH))]
    #[x_kube(validation = dns_label())]
    pub namespace: String,
    /// Ports of the Service; none means every port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PORTS))]
    #[x_kube(validation = named(), validation = unique_names(), validation = unique_ports())]
    pub to_ports: Vec<PortInfo>,
}

/// One of two fields is there.
pub(super) fn exactly_one(a: &str, b: &str) -> Rule {
    Rule::new(format!("has(self.{a}) != has(self.{b})"))
        .message(format!("must have exactly one of {a} and {b}").as_str())
}
