//! The last word on a converted object: the validation that the agent itself uses.

use balancing_dataplane::model::PolicyKind;
use serde_json::Value;

use super::{Origin, Report};
use balancing_core::{
    manifest::read_tree,
    names::{GROUP, VERSION},
    objects::{Object, Policy},
};

/// Our fields and Cilium's, the longer path first.
const CILIUM_FIELDS: [(&str, &str); 4] = [
    ("spec.backend.endpointSelector", "spec.redirectBackend.localEndpointSelector"),
    ("spec.backend.namespace", "metadata.namespace"),
    ("spec.backend", "spec.redirectBackend"),
    ("spec.frontend", "spec.redirectFrontend"),
];

/// The policy that the agent would read; `None` when it would refuse it, and that is reported.
pub(super) fn check(
    origin: Origin,
    kind: PolicyKind,
    tree: &Value,
    report: &mut Report<'_>,
) -> Option<Policy> {
    let manifest = read_tree(tree.clone(), &format!("{GROUP}/{VERSION}"), kind.kind());
    for problem in manifest.problems {
        report.error("", problem.message);
    }
    let Some(Object::Policy(policy)) = manifest.objects.into_iter().next() else { return None };
    if let Err(invalid) = &policy.spec {
        for problem in &invalid.problems {
            let field = field_of(origin, &problem.field);
            if !report.has_error(&field) {
                report.error(field, &problem.message);
            }
        }
    }
    (!report.failed).then_some(policy)
}

/// The field as the user wrote it.
fn field_of(origin: Origin, field: &str) -> String {
    let theirs = CILIUM_FIELDS.iter().filter(|_| origin == Origin::Cilium).find_map(|(ours, theirs)| {
        let rest = field.strip_prefix(ours)?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{theirs}{rest}"))
    });
    theirs.unwrap_or_else(|| field.to_owned())
}
