//! Label selectors (Kubernetes, `LabelSelector` of `meta/v1`) with the rules that the API server has for its own.

use std::collections::BTreeMap;

use kube::{KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::name::{LABEL_KEY_LENGTH, LABEL_VALUE_LENGTH, label_key, label_keys, label_value};
use balancing_core::bounds::{MAX_EXPRESSIONS, MAX_LABELS, MAX_VALUES};

/// Selects by labels: all of matchLabels and matchExpressions hold. An empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_EXPRESSIONS))]
    pub match_expressions: Vec<Requirement>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = some_values(), validation = no_values())]
pub struct Requirement {
    /// Key of the label.
    #[schemars(length(max = LABEL_KEY_LENGTH))]
    #[x_kube(validation = label_key())]
    pub key: String,
    /// In and NotIn compare with values, Exists and DoesNotExist look for the key.
    pub operator: Operator,
    /// Values for In and NotIn: at least one. Empty for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "values")]
    pub values: Vec<String>,
}

/// Relation of a label to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is absent.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

fn some_values() -> Rule {
    Rule::new("!(self.operator in ['In', 'NotIn']) || has(self.values) && self.values.size() > 0")
        .message("must have at least one value with operator In or NotIn; add one")
        .field_path(".values")
}

fn no_values() -> Rule {
    Rule::new("self.operator in ['In', 'NotIn'] || !has(self.values) || self.values.size() == 0")
        .message("must be empty with operator Exists or DoesNotExist; remove the values")
        .field_path(".values")
}

fn labels(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_LABELS,
        "additionalProperties": value(generator),
        "x-kubernetes-validations": [label_keys()],
    })
}

fn values(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": MAX_VALUES, "items": value(generator) })
}

fn value(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": LABEL_VALUE_LENGTH,
        "x-kubernetes-validations": [label_value()],
    })
}
