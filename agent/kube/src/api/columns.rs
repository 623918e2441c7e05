//! What `kubectl get` shows of a policy. Both kinds have the same columns.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

/// The columns in their order.
pub(super) fn columns() -> Vec<CustomResourceColumnDefinition> {
    let text = |name, path: &str, description| column(name, "string", path, Some(description));
    let condition = |name, field| format!(".status.conditions[?(@.type==\"{name}\")].{field}");
    let frontend = ".spec.frontend['addressMatcher','serviceMatcher']['ip','serviceName']";
    vec![
        text("Frontend", frontend, "Address or name of the Service that is redirected."),
        text("Mode", ".status.mode", "Where connections go."),
        text("Accepted", &condition("Accepted", "status"), "Whether the policy is valid."),
        text("Conflicted", &condition("Conflicted", "status"), "Whether another policy wins."),
        column("Backends", "integer", ".status.backends", Some("Backends of the cluster.")),
        CustomResourceColumnDefinition {
            // Shown with `-o wide`.
            priority: Some(1),
            ..text("Reason", &condition("Programmed", "reason"), "Why the policy is or is not in force.")
        },
        column("Age", "date", ".metadata.creationTimestamp", None),
    ]
}

fn column(
    name: &str,
    type_: &str,
    json_path: &str,
    description: Option<&str>,
) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: json_path.to_owned(),
        description: description.map(str::to_owned),
        ..CustomResourceColumnDefinition::default()
    }
}
