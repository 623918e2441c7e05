//! CiliumLocalRedirectPolicy → LocalRedirectPolicy.
//!
//! Rules of the fields: Cilium, `pkg/k8s/apis/cilium.io/v2/clrp_types.go` and `pkg/loadbalancer/redirectpolicy`.

use serde_json::{Map, Value, json};

use super::{Origin, Report, metadata, ports, selector};
use balancing_core::{
    manifest::{
        name::{DNS_LABEL, is_dns_label},
        raw::RawObject,
    },
    names::{GROUP, VERSION},
};

/// Well-known annotation for free text (Kubernetes, "Well-Known Labels, Annotations and Taints").
const DESCRIPTION: &str = "kubernetes.io/description";
/// Longest name of an object (Kubernetes, "Object Names and IDs").
const LONGEST_NAME: usize = 253;

const SPEC: &[&str] = &["redirectFrontend", "redirectBackend", "skipRedirectFromBackend", "description"];
const BACKEND: &[&str] = &["localEndpointSelector", "toPorts"];

/// The policy as one of ours; `None` when that is impossible, and reported.
pub(super) fn convert(mut object: RawObject, given: Option<&str>, report: &mut Report<'_>) -> Option<Value> {
    if object.name.is_empty() {
        report.error("metadata.name", "is missing; every policy needs a name");
        return None;
    }
    let mut metadata = into_map(object.tree.get_mut("metadata").map(Value::take));
    let spec = into_map(object.tree.get_mut("spec").map(Value::take));
    let matched = spec.get("redirectFrontend").and_then(|f| f.pointer("/serviceMatcher/namespace"));
    let matched = matched.and_then(Value::as_str).map(str::to_owned);
    let namespace = namespace(&object.namespace, given, matched.as_deref(), report)?;
    let name = name(&namespace, &object.name, report)?;

    metadata.remove("namespace");
    metadata.remove("generateName");
    metadata.insert("name".to_owned(), json!(name));
    for field in ["ownerReferences", "finalizers"] {
        if metadata.remove(field).is_some_and(|value| !value.is_null()) {
            report.warn(format!("metadata.{field}"), "is left out: it is about the old object");
        }
    }
    metadata::clean(&mut metadata, report);
    if let Some(text) = spec.get("description").filter(|text| !text.is_null()) {
        describe(&mut metadata, text, report);
    }
    let spec = convert_spec(spec, &namespace, report)?;
    Some(json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "LocalRedirectPolicy",
        "metadata": metadata,
        "spec": spec,
    }))
}

/// The namespace of the policy, which is that of its backends and of its Service.
fn namespace(
    own: &str,
    given: Option<&str>,
    matched: Option<&str>,
    report: &mut Report<'_>,
) -> Option<String> {
    let namespace = match (own, given, matched) {
        ("", Some(given), _) => given,
        ("", None, Some(matched)) => {
            report.note(
                "metadata.namespace",
                format!("is absent; {matched:?} of serviceMatcher is used, for they must be equal"),
            );
            matched
        }
        ("", None, None) => {
            report
                .warn("metadata.namespace", "is absent; \"default\" is assumed, use --namespace for another");
            "default"
        }
        (own, _, _) => own,
    };
    if !is_dns_label(namespace) {
        report.error("metadata.namespace", format!("{DNS_LABEL}, found {namespace:?}; correct it"));
        return None;
    }
    if matched.is_some_and(|matched| matched != namespace) {
        report.error(
            "spec.redirectFrontend.serviceMatcher.namespace",
            format!(
                "must be the policy's namespace {namespace:?}, found {:?}; Cilium never applies such a policy. Correct \
                 it, or write a LocalRedirectPolicy, which may name a Service of any namespace",
                matched.unwrap_or_default()
            ),
        );
        return None;
    }
    Some(namespace.to_owned())
}

/// A namespace has no dot, so no two policies get one name, whatever else is converted with them or later.
fn name(namespace: &str, name: &str, report: &mut Report<'_>) -> Option<String> {
    let full = format!("{namespace}.{name}");
    if full.len() > LONGEST_NAME {
        report.error(
            "metadata.name",
            format!(
                "is too long to take the namespace in front: {} of {LONGEST_NAME} characters; rename it",
                full.len()
            ),
        );
        return None;
    }
    report.note(
        "metadata.namespace",
        format!(
            "our policies have none: the name becomes {full:?}, spec.backend.namespace limits the backends"
        ),
    );
    Some(full)
}

fn describe(metadata: &mut Map<String, Value>, text: &Value, report: &mut Report<'_>) {
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    match annotations.as_object_mut() {
        Some(annotations) if !annotations.contains_key(DESCRIPTION) => {
            report.note("spec.description", format!("becomes the annotation {DESCRIPTION}"));
            annotations.insert(DESCRIPTION.to_owned(), text.clone());
        }
        _ => report.warn(
            "spec.description",
            format!("is left out: it has no place here, and the annotation {DESCRIPTION} is taken"),
        ),
    }
}

fn convert_spec(mut spec: Map<String, Value>, namespace: &str, report: &mut Report<'_>) -> Option<Value> {
    unknown_fields(&spec, "spec", SPEC, report);
    let frontend = required(&mut spec, "spec", "redirectFrontend", report);
    let backend = required(&mut spec, "spec", "redirectBackend", report);
    let backend = backend.and_then(|backend| {
        let mut backend = into_map(Some(backend));
        unknown_fields(&backend, "spec.redirectBackend", BACKEND, report);
        let mut labels = required(&mut backend, "spec.redirectBackend", "localEndpointSelector", report)?;
        selector::convert(&mut labels, "spec.redirectBackend.localEndpointSelector", namespace, report);
        let ports = required(&mut backend, "spec.redirectBackend", "toPorts", report)?;
        Some(json!({"endpointSelector": labels, "namespace": namespace, "toPorts": ports}))
    });
    let mut converted = json!({"frontend": frontend?, "backend": backend?});
    if let Some(skip) = spec.remove("skipRedirectFromBackend").filter(|skip| !skip.is_null())
        && let Some(converted) = converted.as_object_mut()
    {
        converted.insert("skipRedirectFromBackend".to_owned(), skip);
    }
    convert_ports(&mut converted, report);
    Some(converted)
}

fn convert_ports(spec: &mut Value, report: &mut Report<'_>) {
    let of_address = spec.pointer("/frontend/addressMatcher").is_some_and(|matcher| !matcher.is_null());
    let matcher = if of_address { "addressMatcher" } else { "serviceMatcher" };
    if of_address {
        report.note(
            "spec.redirectFrontend.addressMatcher.ip",
            "an address that is also a ClusterIP belongs to the policy here; Cilium 1.18 and newer leaves it to the \
             Service",
        );
    }
    let place = format!("/frontend/{matcher}/toPorts");
    let path = format!("spec.redirectFrontend.{matcher}.toPorts");
    let frontend = ports::take(spec, &place, path, of_address);
    let backend = ports::take(spec, "/backend/toPorts", "spec.redirectBackend.toPorts".to_owned(), false);
    // A list that is none stays where it is, for the validation.
    if let (Some(mut frontend), Some(mut backend)) = (frontend, backend) {
        ports::adapt(Origin::Cilium, &mut frontend, &mut backend, report);
        ports::put(spec, &place, frontend);
        ports::put(spec, "/backend/toPorts", backend);
    }
}

fn unknown_fields(fields: &Map<String, Value>, path: &str, known: &[&str], report: &mut Report<'_>) {
    for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
        report.error(
            format!("{path}.{name}"),
            format!("unknown field; remove it or use one of {}", known.join(", ")),
        );
    }
}

fn required(
    fields: &mut Map<String, Value>,
    path: &str,
    name: &str,
    report: &mut Report<'_>,
) -> Option<Value> {
    let value = fields.remove(name).filter(|value| !value.is_null());
    if value.is_none() {
        report.error(format!("{path}.{name}"), "is required; add it");
    }
    value
}

/// The fields of an object; anything else has none.
fn into_map(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}
