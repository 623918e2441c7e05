//! `status` of the policies, and conditions of every kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::port::Protocol;
use balancing_core::bounds::MAX_PORTS;

/// What became of the policy. Written by the controller, only on change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Generation of the policy that this status tells about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number that names the policy in counters, events and commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<i64>,
    /// Where connections go: LocalRedirect, podEndpoint, hostPort, nodeProxy or addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Count of frontends: addresses with port and protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<i64>,
    /// Count of backends in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<i64>,
    /// Ports at the proxy addresses that the controller chose for ports written as 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PORTS))]
    pub proxy_ports: Vec<ProxyPort>,
    /// Accepted, ResolvedRefs, Conflicted and Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// A port at the proxy addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyPort {
    /// Name of the port in the policy; empty where it has none.
    #[serde(default)]
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

fn conditions(_generator: &mut SchemaGenerator) -> Schema {
    conditions_of(
        "policy",
        "Accepted: the policy is valid. ResolvedRefs: its Service and ports are found. \
         Conflicted: another policy wins. Programmed: nodes apply it.",
    )
}

/// Conditions as Kubernetes defines them (`Condition` of `meta/v1`) of an object; `types` says what they mean.
pub(super) fn conditions_of(object: &str, types: &str) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": format!("One aspect of the {object}."),
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": types,
                    "type": "string",
                    "maxLength": 316,
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "description": format!("Generation of the {object} that the condition tells about."),
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "When status changed last.",
                    "type": "string",
                    "format": "date-time",
                },
                "reason": {
                    "description": "Why, in one word for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "description": "Why, for people.",
                    "type": "string",
                    "maxLength": 32768,
                },
            },
        },
    })
}
