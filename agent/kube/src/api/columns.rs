//! What `kubectl get` shows. Both kinds of policies have the same columns.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

/// The columns of a kind in their order.
pub(super) fn of_kind(kind: &str) -> Vec<CustomResourceColumnDefinition> {
    match kind {
        "TunnelFabric" => fabric(),
        "TunnelNode" => member(),
        "TunnelAddressClaim" => claim(),
        "ExternalHost" => external_host(),
        _ => policy(),
    }
}

fn fabric() -> Vec<CustomResourceColumnDefinition> {
    vec![
        text("IPv4 Pool", ".spec.ipv4Pool", "IPv4 addresses in the tunnel."),
        text("IPv6 Pool", ".spec.ipv6Pool", "IPv6 addresses in the tunnel."),
        column("Members", "integer", ".status.members", Some("TunnelNodes of the fabric.")),
        text("Accepted", &condition("Accepted", "status"), "Whether the fabric is in force."),
        wide(text("Reason", &condition("Accepted", "reason"), "Why the fabric is or is not in force.")),
        age(),
    ]
}

fn member() -> Vec<CustomResourceColumnDefinition> {
    vec![
        text("Fabric", ".spec.fabric", "The TunnelFabric."),
        text("Underlay", ".spec.underlay['ipv4','ipv6']", "Where peers dial the member."),
        text("Addresses", ".spec.addresses[*]", "Addresses in the tunnel."),
        column("MTU", "integer", ".spec.mtu", Some("MTU of the tunnel device.")),
        text(
            "Conflicted",
            &condition("Conflicted", "status"),
            "Whether an older member has one of its addresses.",
        ),
        age(),
    ]
}

fn claim() -> Vec<CustomResourceColumnDefinition> {
    vec![
        text("Address", ".spec.address", "The address in the tunnel."),
        text("Fabric", ".spec.fabric", "The TunnelFabric."),
        text("Kind", ".spec.owner.kind", "What the owner is."),
        text("Owner", ".spec.owner.name", "Name of the owner."),
        age(),
    ]
}

fn external_host() -> Vec<CustomResourceColumnDefinition> {
    vec![
        text("Fabric", ".spec.fabric", "The TunnelFabric."),
        text("Joined", &condition("Joined", "status"), "Whether the host is a member."),
        text("Reason", &condition("Joined", "reason"), "Why the host is or is not a member."),
        column("Renewed", "date", ".status.lastRenewal", Some("When the agent of the host was heard of.")),
        age(),
    ]
}

fn policy() -> Vec<CustomResourceColumnDefinition> {
    let frontend = ".spec.frontend['addressMatcher','serviceMatcher']['ip','serviceName']";
    vec![
        text("Frontend", frontend, "Address or name of the Service that is redirected."),
        text("Mode", ".status.mode", "Where connections go."),
        text("Accepted", &condition("Accepted", "status"), "Whether the policy is valid."),
        text("Conflicted", &condition("Conflicted", "status"), "Whether another policy wins."),
        column("Backends", "integer", ".status.backends", Some("Backends of the cluster.")),
        wide(text(
            "Resolved",
            &condition("ResolvedRefs", "status"),
            "Whether Service and ports of the policy are known and pair.",
        )),
        wide(text("Reason", &condition("Programmed", "reason"), "Why the policy is or is not in force.")),
        age(),
    ]
}

fn text(name: &str, path: &str, description: &str) -> CustomResourceColumnDefinition {
    column(name, "string", path, Some(description))
}

fn condition(name: &str, field: &str) -> String {
    format!(".status.conditions[?(@.type==\"{name}\")].{field}")
}

/// Shown with `-o wide`.
fn wide(column: CustomResourceColumnDefinition) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition { priority: Some(1), ..column }
}

fn age() -> CustomResourceColumnDefinition {
    column("Age", "date", ".metadata.creationTimestamp", None)
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
