//! `metadata`, without what only an API server says.

use serde_json::{Map, Value};

use super::Report;
use balancing_core::names::GROUP;

/// Fields that the API server sets; an apply that names them can fail. `creationTimestamp` is not among them: it
/// decides between two policies in a directory, and the API server ignores it.
const SERVER_FIELDS: [&str; 5] = ["generation", "managedFields", "resourceVersion", "selfLink", "uid"];
/// It describes the object as it was.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The annotation of ours that a policy may have.
const SERVICE_ID: &str = "balancing.elf.io/serviceId";

/// Removes what an API server says about an object, and says which annotations mean nothing.
pub(super) fn clean(metadata: &mut Map<String, Value>, report: &mut Report<'_>) {
    for field in SERVER_FIELDS {
        metadata.remove(field);
    }
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return };
    let had_last_applied = annotations.remove(LAST_APPLIED).is_some();
    for key in annotations.keys() {
        if key.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/')) && key != SERVICE_ID {
            report.note(field(key), "means nothing on a policy; remove it");
        }
    }
    if annotations.is_empty() && had_last_applied {
        metadata.remove("annotations");
    }
}

/// Path of an annotation.
pub(super) fn field(annotation: &str) -> String {
    format!("metadata.annotations[{annotation:?}]")
}
