//! Label selectors, as Kubernetes evaluates them.

use std::collections::{BTreeMap, BTreeSet};

use super::Labels;

/// A Kubernetes label selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LabelSelector {
    /// `matchLabels`
    pub labels: BTreeMap<String, String>,
    /// `matchExpressions`
    pub expressions: Vec<LabelExpression>,
}

/// A `matchExpressions` entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelExpression {
    /// `key`
    pub key: String,
    /// `operator` with its `values`.
    pub operator: LabelOperator,
}

/// `operator` of a label expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LabelOperator {
    /// `In`
    In(BTreeSet<String>),
    /// `NotIn`
    NotIn(BTreeSet<String>),
    /// `Exists`
    Exists,
    /// `DoesNotExist`
    DoesNotExist,
}

impl LabelSelector {
    /// Whether the labels match: an empty selector matches everything
    /// (Kubernetes, `LabelSelector` of `meta/v1`).
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value.as_str()))
            && self.expressions.iter().all(|e| e.matches(labels))
    }
}

impl LabelExpression {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            LabelOperator::In(values) => value.is_some_and(|v| values.contains(v)),
            LabelOperator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}
