//! `PortInfo`, and the rules of lists of it.
//!
//! CEL knows a port as text of any length or as a number, and assumes the longest text there can be. So its
//! rules only use what costs the same for every length: `int()`, `format()` and the comparison with a short text.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    name::{PORT_NAME_LENGTH, PORT_NAME_REGEX, port_name},
    says,
};

/// 1 to 65535 in digits.
const NUMBER_REGEX: &str =
    "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// Protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortInfo {
    /// Port, as text or integer from 1 to 65535.
    #[schemars(schema_with = "number")]
    pub port: IntOrString,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// Lower-case IANA service name. Required and unique as soon as the list has two ports; pairs a frontend
    /// port with a backend port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = PORT_NAME_LENGTH))]
    #[x_kube(validation = port_name())]
    pub name: Option<String>,
}

/// A port of pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = automatic_target())]
pub struct BackendPortInfo {
    /// Port, as text or integer from 1 to 65535. hostPort mode: the pod's hostPort; nodeProxy mode: the port
    /// at the proxy address, where 0 lets the controller choose one.
    #[schemars(schema_with = "number_or_zero")]
    pub port: IntOrString,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// Lower-case IANA service name. Required and unique as soon as the list has two ports; pairs a frontend
    /// port with a backend port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = PORT_NAME_LENGTH))]
    #[x_kube(validation = port_name())]
    pub name: Option<String>,
    /// Only with redirectMode nodeProxy: the pod's port behind the proxy, as number or as name of a container
    /// port. By default the container port of the same name, else the Service's target port of the same name,
    /// else the container port whose hostPort is port, else port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "number_or_name")]
    pub target_port: Option<IntOrString>,
}

/// A port that the controller chooses says nothing about the pod's.
fn automatic_target() -> Rule {
    Rule::new("'%s'.format([self.port]) != '0' || has(self.targetPort) || has(self.name) && self.name != ''")
        .message("is required with port 0 and without a name; add the port of the pods")
        .field_path(".targetPort")
}

/// Two ports or more need names.
pub(super) fn named() -> Rule {
    Rule::new("self.size() < 2 || self.all(p, has(p.name) && p.name != '')").message(
        "name is required as soon as a list has two ports; add a name that pairs frontend and backend",
    )
}

/// No name appears twice.
pub(super) fn unique_names() -> Rule {
    Rule::new(
        "self.all(p, !has(p.name) || p.name == '' || self.exists_one(q, has(q.name) && q.name == p.name))",
    )
    .message("name must be unique in the list; rename one")
}

/// No port appears twice with the same protocol: it could lead to two places.
pub(super) fn unique_ports() -> Rule {
    Rule::new(
        "self.size() < 2 || self.all(p, self.exists_one(q, int(q.port) == int(p.port) && q.protocol == p.protocol))",
    )
    .message("every port must be a port from 1 to 65535 and differ from the other ports of its protocol; remove one")
}

/// A single port on each side pairs whatever the names, but never across protocols. `frontend` and `backend` are
/// the ways from `self` to what has `toPorts`.
pub(super) fn paired(frontend: &str, backend: &str) -> Rule {
    let (f, b) = (format!("self.{frontend}"), format!("self.{backend}"));
    Rule::new(format!(
        "!has({f}) || !has({f}.toPorts) || !has({b}) || {f}.toPorts.size() != 1 || {b}.toPorts.size() != 1 \
         || {f}.toPorts[0].protocol == {b}.toPorts[0].protocol"
    ))
    .message("protocol must be the protocol of the only frontend port; they can never pair, change one")
    .field_path(format!(".{backend}.toPorts"))
}

/// The first character is one of 1 to 9 (`:` follows 9), and `int()` takes nothing but digits after it.
fn number(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": [{
            "rule": "'%s'.format([self]) >= '1' && '%s'.format([self]) < ':' && int(self) <= 65535",
            "message": "must be a port from 1 to 65535; write only its digits, without sign, blank or leading zero",
        }],
    })
}

fn number_or_zero(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": [{
            "rule": "'%s'.format([self]) >= '0' && '%s'.format([self]) < ':' && int(self) <= 65535 \
                     && ('%s'.format([self]) >= '1' || '%s'.format([self]) == '0')",
            "message": "must be a port from 1 to 65535; write only its digits, without sign, blank or leading zero",
        }],
    })
}

fn number_or_name(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 65535,
        "maxLength": PORT_NAME_LENGTH,
        "allOf": [says::or(
            "must be a port from 1 to 65535 or the lower-case name of a container port",
            json!({ "pattern": format!("^({NUMBER_REGEX}|{PORT_NAME_REGEX})$") }),
        )],
    })
}
