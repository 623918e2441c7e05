//! Our kinds as Rust types, and the CustomResourceDefinitions made from them.
//!
//! It owns what the API server checks and what `kubectl explain` says. The agent does not read objects through
//! these types: `manifest` checks the same rules again, reports every problem at once and never trusts the
//! API server. A rule that is changed here is changed there too; `tests/fixtures/rules` holds both to it.
//!
//! Rules are OpenAPI and CEL of Kubernetes 1.31 (the first with the IP address functions). The server limits
//! the *estimated* cost of a rule, so every list, map and text that a rule walks has a bound.

#![allow(unreachable_pub, reason = "KubeSchema repeats every type inside a function, pub and all")]
#![allow(clippy::duplicated_attributes, reason = "every printcolumn has a name, a type and a path")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;
use serde_json::Value;

pub use self::{
    address::{Address, WeightedAddress},
    balancing::{
        AddressEndpoint, BalancingBackend, BalancingConfig, BalancingPolicy, BalancingPolicySpec,
        ClientIpConfig, OnNoBackend, RedirectMode, ServiceEndpoint, SessionAffinity, SessionAffinityConfig,
    },
    claim::{ClaimOwner, TunnelAddressClaim, TunnelAddressClaimSpec},
    external_host::{ExternalHost, ExternalHostSpec, ExternalHostStatus},
    fabric::{
        AcceptFrom, IpFamily, ProxyPorts, TunnelFabric, TunnelFabricSpec, TunnelFabricStatus, Underlay, Vxlan,
    },
    frontend::{AddressMatcher, Frontend, ServiceMatcher},
    local_redirect::{
        Clients, LocalRedirectBackend, LocalRedirectConfig, LocalRedirectPolicy, LocalRedirectPolicySpec,
    },
    member::{MemberKind, TunnelNode, TunnelNodeSpec, TunnelNodeStatus, UnderlayAddresses},
    port::{BackendPortInfo, PortInfo, Protocol},
    selector::{LabelSelector, Operator, Requirement},
    status::{PolicyStatus, ProxyPort},
};

mod address;
mod balancing;
mod claim;
mod columns;
mod external_host;
mod fabric;
mod frontend;
mod local_redirect;
mod member;
mod name;
mod network;
mod port;
mod says;
mod selector;
mod status;

#[cfg(test)]
mod tests;

/// Names that `crds` of the command line takes: the plurals, which also name the files of `install/crds`.
pub const PLURALS: [&str; 6] = [
    "localredirectpolicies",
    "balancingpolicies",
    "tunnelfabrics",
    "tunnelnodes",
    "tunneladdressclaims",
    "externalhosts",
];

/// Why a CustomResourceDefinition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// It is no tree of values.
    #[error("cannot turn CustomResourceDefinition {name} into a tree: {source}")]
    Tree {
        /// `metadata.name`.
        name: String,
        /// What serde says.
        source: serde_json::Error,
    },
    /// It is no YAML.
    #[error("cannot write CustomResourceDefinition {name} as YAML: {source}")]
    Yaml {
        /// `metadata.name`.
        name: String,
        /// What serde says.
        source: yaml_serde::Error,
    },
}

/// The CustomResourceDefinitions, in the order of [`PLURALS`].
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        LocalRedirectPolicy::crd(),
        BalancingPolicy::crd(),
        TunnelFabric::crd(),
        TunnelNode::crd(),
        TunnelAddressClaim::crd(),
        ExternalHost::crd(),
    ];
    for crd in &mut crds {
        for version in &mut crd.spec.versions {
            version.additional_printer_columns = Some(columns::of_kind(&crd.spec.names.kind));
            if let Some(schema) =
                version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut())
            {
                forbid_null(schema);
            }
        }
    }
    crds
}

/// CustomResourceDefinitions as YAML, one document each: the one of a plural, or all.
///
/// # Errors
/// See [`CrdError`].
pub fn crds_yaml(plural: Option<&str>) -> Result<String, CrdError> {
    let wanted =
        |crd: &&CustomResourceDefinition| plural.is_none_or(|plural| crd.spec.names.plural == plural);
    crds().iter().filter(wanted).map(crd_yaml).collect()
}

/// One CustomResourceDefinition as a YAML document that begins with `---`.
fn crd_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    let name = || crd.metadata.name.clone().unwrap_or_default();
    let mut tree = serde_json::to_value(crd).map_err(|source| CrdError::Tree { name: name(), source })?;
    whole_numbers(&mut tree);
    let text = yaml_serde::to_string(&tree).map_err(|source| CrdError::Yaml { name: name(), source })?;
    Ok(format!("---\n{text}"))
}

/// Default of what is on unless it is switched off.
fn yes() -> bool {
    true
}

/// Makes null mean absent, as the agent reads it: of a field that is not nullable the API server drops null
/// and then fills in the default.
fn forbid_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flatten().for_each(|(_, property)| forbid_null(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        forbid_null(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        forbid_null(values);
    }
}

/// Writes `65535` for `65535.0`: limits are floating-point in the types of the API.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0);
            // Exact: no limit of the schema comes near the 2^53 that a float holds.
            if let Some(whole) = whole.and_then(|n| format!("{n:.0}").parse::<i64>().ok()) {
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
