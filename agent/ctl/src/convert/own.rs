//! Policies of our group. Ours and the original project's look alike, so a policy that is fine passes as it is,
//! and only what the original reads differently is changed.

use balancing_dataplane::model::PolicyKind;
use serde_json::{Map, Value};

use super::{Origin, Report, metadata, ports};
use balancing_core::manifest::raw::RawObject;

/// The policy in our form.
pub(super) fn convert(kind: PolicyKind, object: RawObject, report: &mut Report<'_>) -> Option<Value> {
    let mut tree = object.tree;
    if object.name.is_empty() {
        report.error("metadata.name", "is missing; every policy needs a name");
        return None;
    }
    if let Some(fields) = tree.as_object_mut() {
        fields.remove("status");
    }
    if let Some(Value::Object(fields)) = tree.get_mut("metadata") {
        if fields.remove("namespace").is_some_and(|namespace| !namespace.is_null()) {
            report.note("metadata.namespace", "is left out: policies belong to the whole cluster");
        }
        metadata::clean(fields, report);
    }
    if kind == PolicyKind::LocalRedirect {
        local_redirect(&mut tree, report);
    } else {
        explain_proxy(&tree, report);
    }
    adapt_ports(kind, &mut tree, report);
    Some(tree)
}

fn local_redirect(tree: &mut Value, report: &mut Report<'_>) {
    if let Some(Value::Object(config)) = tree.pointer_mut("/spec/config")
        && config.remove("enableOutCluster").is_some()
    {
        report.note(
            "spec.config.enableOutCluster",
            "is left out: a LocalRedirectPolicy has no backends on hosts outside the cluster",
        );
    }
    if let Some(Value::Object(backend)) = tree.pointer_mut("/spec/backend") {
        rename_selector(backend, report);
    }
}

/// Early versions of the original used Cilium's name for the selector.
fn rename_selector(backend: &mut Map<String, Value>, report: &mut Report<'_>) {
    if backend.contains_key("endpointSelector") {
        return;
    }
    if let Some(selector) = backend.remove("localEndpointSelector") {
        report.note("spec.backend.localEndpointSelector", "becomes spec.backend.endpointSelector");
        backend.insert("endpointSelector".to_owned(), selector);
    }
}

/// The original sends connections to the proxy address and leaves the way from there to the pod to others.
fn explain_proxy(tree: &Value, report: &mut Report<'_>) {
    let Some(endpoint) = tree.pointer("/spec/backend/serviceEndpoint") else { return };
    if endpoint.get("redirectMode").and_then(Value::as_str) != Some("nodeProxy") {
        return;
    }
    let ports = endpoint.get("toPorts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        if port.get("targetPort").is_none_or(Value::is_null) {
            report.note(
                format!("spec.backend.serviceEndpoint.toPorts[{index}].targetPort"),
                "is absent: the pod's port is its containerPort of the same name, else the Service's targetPort of the \
                 same name, else the containerPort with this hostPort, else this port; add it to be sure",
            );
        }
    }
}

fn adapt_ports(kind: PolicyKind, tree: &mut Value, report: &mut Report<'_>) {
    let present = |pointer: &str| tree.pointer(pointer).is_some_and(|value| !value.is_null());
    let of_address = present("/spec/frontend/addressMatcher");
    let matcher = if of_address { "addressMatcher" } else { "serviceMatcher" };
    let backend = match kind {
        PolicyKind::LocalRedirect => "spec.backend",
        PolicyKind::Balancing if present("/spec/backend/addressEndpoint") => "spec.backend.addressEndpoint",
        PolicyKind::Balancing => "spec.backend.serviceEndpoint",
    };
    let paths = [format!("spec.frontend.{matcher}.toPorts"), format!("{backend}.toPorts")];
    let [front, back] = paths.each_ref().map(|path| format!("/{}", path.replace('.', "/")));
    let [front_path, back_path] = paths;
    let frontend = ports::take(tree, &front, front_path, of_address);
    let backend = ports::take(tree, &back, back_path, false);
    // One that is no list stays where it is, for the validation.
    if let (Some(mut frontend), Some(mut backend)) = (frontend, backend) {
        ports::adapt(Origin::Own, &mut frontend, &mut backend, report);
        ports::put(tree, &front, frontend);
        ports::put(tree, &back, backend);
    }
}
