//! Cilium's label selectors. Their keys may say where a label comes from (`k8s:app`), and Cilium has labels
//! that no pod carries.

use serde_json::{Map, Value};

use super::Report;

/// Label by which Cilium's selectors mean a namespace.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Labels that Cilium derives from namespaces, service accounts and clusters.
const DERIVED: &str = "io.cilium.k8s.";

/// What a key means.
enum Key<'a> {
    /// A label of the pod.
    Plain,
    /// A label of the pod, with its source in front.
    Prefixed(&'a str),
    /// The namespace of the pod.
    Namespace,
    /// No label of a pod.
    Foreign,
}

/// Rewrites a selector at `path` to plain labels of pods in `namespace`. What is no selector stays as it is.
pub(super) fn convert(selector: &mut Value, path: &str, namespace: &str, report: &mut Report<'_>) {
    if let Some(Value::Object(labels)) = selector.get_mut("matchLabels") {
        *labels = match_labels(std::mem::take(labels), &format!("{path}.matchLabels"), namespace, report);
    }
    let Some(Value::Array(expressions)) = selector.get_mut("matchExpressions") else { return };
    for (index, expression) in expressions.iter_mut().enumerate() {
        let Some(Value::String(key)) = expression.get_mut("key") else { continue };
        let field = format!("{path}.matchExpressions[{index}].key");
        match Key::of(key) {
            Key::Plain => {}
            Key::Prefixed(plain) => {
                let plain = plain.to_owned();
                report.warn(field, prefixed(key, &plain));
                *key = plain;
            }
            Key::Namespace => report.error(
                field,
                format!("{key:?} is no label of a pod; remove the expression, pods are of namespace {namespace} only"),
            ),
            Key::Foreign => report.error(field, foreign(key)),
        }
    }
}

fn match_labels(
    labels: Map<String, Value>,
    path: &str,
    namespace: &str,
    report: &mut Report<'_>,
) -> Map<String, Value> {
    let mut plain = Map::new();
    for (key, value) in labels {
        let field = format!("{path}[{key:?}]");
        let key = match Key::of(&key) {
            Key::Plain => key,
            Key::Prefixed(plain) => {
                report.warn(&field, prefixed(&key, plain));
                plain.to_owned()
            }
            Key::Namespace if value.as_str() == Some(namespace) => {
                report.warn(field, "is left out: spec.backend.namespace says the same");
                continue;
            }
            Key::Namespace => {
                report.error(
                    field,
                    format!("selects no pod: a policy of namespace {namespace} has backends there only; correct it"),
                );
                continue;
            }
            Key::Foreign => {
                report.error(field, foreign(&key));
                continue;
            }
        };
        if plain.get(&key).is_some_and(|other| *other != value) {
            report.error(field, format!("gives label {key:?} a second value; remove one of them"));
        }
        plain.insert(key, value);
    }
    plain
}

impl<'a> Key<'a> {
    fn of(key: &'a str) -> Self {
        // No key of a Kubernetes label has a colon.
        let (plain, is_prefixed) = match key.split_once(':') {
            Some(("k8s" | "any", plain)) => (plain, true),
            Some(_) => return Self::Foreign,
            None => (key, false),
        };
        match plain {
            NAMESPACE => Self::Namespace,
            derived if derived.starts_with(DERIVED) => Self::Foreign,
            plain if is_prefixed => Self::Prefixed(plain),
            _ => Self::Plain,
        }
    }
}

fn prefixed(key: &str, plain: &str) -> String {
    format!(
        "{key:?} becomes {plain:?}: labels of pods have no source; Cilium may have selected no pod by it, so check \
         that the policy is wanted"
    )
}

fn foreign(key: &str) -> String {
    format!("{key:?} is no label of a pod; select by the pod's own labels")
}
