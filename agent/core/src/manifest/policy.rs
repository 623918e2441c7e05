//! Policies: the rules of the API, all of them checked, each problem with its field.
//!
//! The API server checks the same rules by the CRD; the agent never trusts that. A policy with a name is an
//! object whatever is wrong with it, so that its status can say so.

use balancing_abi::model::{Clients, PolicyKind};
use serde_json::Value;

use super::{
    field::{Field, Fields, Known, Problems},
    metadata,
};
use crate::objects::{FrontendSpec, InvalidSpec, LabelSelector, OnNoBackend, Policy, PolicyRef, PolicySpec};

pub(super) use address::usable_ip;

mod address;
mod backend;
mod frontend;
mod port;
pub(super) mod selector;

/// Annotation with the id chosen by the user.
const SERVICE_ID: &str = "balancing.elf.io/serviceId";
/// Default of `timeoutSeconds`, as in a Service (Kubernetes, `DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_DEFAULT: u32 = 10_800;
/// Longest `timeoutSeconds`, as in a Service (Kubernetes, `MaxClientIPServiceAffinitySeconds`).
const AFFINITY_MAX: u32 = 86_400;

const LOCAL_REDIRECT: Known = Known {
    names: &["enabled", "config", "frontend", "backend", "skipRedirectFromBackend", "qosLimit", "clients"],
    elsewhere: &[
        ("sessionAffinity", "it belongs to BalancingPolicy"),
        ("sessionAffinityConfig", "it belongs to BalancingPolicy"),
        ("onNoBackend", "it belongs to BalancingPolicy"),
    ],
};

const BALANCING: Known = Known {
    names: &[
        "enabled",
        "config",
        "frontend",
        "backend",
        "sessionAffinity",
        "sessionAffinityConfig",
        "onNoBackend",
    ],
    elsewhere: &[
        ("skipRedirectFromBackend", "it belongs to LocalRedirectPolicy"),
        ("qosLimit", "it belongs to LocalRedirectPolicy"),
        ("clients", "it belongs to LocalRedirectPolicy"),
    ],
};

const LOCAL_REDIRECT_CONFIG: Known = Known {
    names: &["nodeLabelSelector"],
    elsewhere: &[("enableOutCluster", "it belongs to BalancingPolicy")],
};

const BALANCING_CONFIG: Known = Known { names: &["nodeLabelSelector", "enableOutCluster"], elsewhere: &[] };

/// Reads a policy whose name is known. `tree` is the whole object, or why it is no tree.
pub(super) fn read(kind: PolicyKind, name: &str, tree: Result<Value, String>) -> Policy {
    let problems = Problems::default();
    let (metadata, service_id, spec) = match &tree {
        Ok(tree) => {
            let value = tree.get("metadata").unwrap_or(&Value::Null);
            let metadata = metadata::read("policy", name, value, &problems);
            let service_id = service_id(value, &problems);
            (metadata, service_id, read_spec(kind, tree.get("spec").unwrap_or(&Value::Null), &problems))
        }
        Err(message) => {
            problems.add("spec".to_owned(), format!("the object cannot be read: {message}"));
            (metadata::Metadata::default(), None, None)
        }
    };
    let proxy_ports = tree.as_ref().map(port::given).unwrap_or_default();
    let spec = spec.map(|spec| port::with_given(spec, &proxy_ports));
    Policy {
        id: PolicyRef { kind, name: name.to_owned() },
        proxy_ports,
        uid: metadata.uid,
        generation: metadata.generation,
        created: metadata.created,
        service_id,
        spec: problems.settle(spec).map_err(|invalid| InvalidSpec {
            frontends: frontend::named(tree.as_ref().ok().and_then(|tree| tree.pointer("/spec/frontend"))),
            ..invalid
        }),
    }
}

fn service_id(metadata: &Value, problems: &Problems) -> Option<u32> {
    let root = Field::root("metadata", metadata, problems);
    // What is no object has been reported.
    let fields = metadata.is_object().then(|| root.open_fields())??;
    let annotations = fields.get("annotations")?;
    let annotations = annotations.open_fields()?;
    number_of(&annotations.get(SERVICE_ID)?)
}

fn number_of(field: &Field<'_>) -> Option<u32> {
    let number = field.value().as_str().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let id = number.and_then(|text| text.parse::<u32>().ok()).filter(|id| *id != 0);
    id.or_else(|| {
        field.reject(
            format_args!("must be a number from 1 to {} in quotes", u32::MAX),
            "correct it, or remove it to get a derived id",
        )
    })
}

fn read_spec(kind: PolicyKind, value: &Value, problems: &Problems) -> Option<PolicySpec> {
    let spec = Field::root("spec", value, problems);
    if value.is_null() {
        return spec.report("is required; add frontend and backend".to_owned());
    }
    match kind {
        PolicyKind::LocalRedirect => local_redirect(&spec.fields(&LOCAL_REDIRECT)?),
        PolicyKind::Balancing => balancing(&spec.fields(&BALANCING)?),
    }
}

fn local_redirect(spec: &Fields<'_>) -> Option<PolicySpec> {
    let common = Common::read(spec, &LOCAL_REDIRECT_CONFIG);
    let backend = spec.required("backend", "add endpointSelector and toPorts", |field| {
        backend::local_pods(field, common.frontend.as_ref())
    });
    let skip = spec.or("skipRedirectFromBackend", false, |field| field.boolean());
    let qos_limit = spec.optional("qosLimit", |field| field.integer(0..=u32::MAX));
    let clients = spec.or("clients", Clients::All, |field| {
        field.choice(&[("all", Clients::All), ("pods", Clients::Pods), ("host", Clients::Host)])
    });
    Some(PolicySpec {
        enabled: common.enabled?,
        node_selector: common.node_selector?,
        out_cluster: false,
        frontend: common.frontend?,
        backend: backend?,
        skip_redirect_from_backend: skip?,
        qos_limit: qos_limit?,
        clients: clients?,
        affinity: None,
        on_no_backend: None,
    })
}

fn balancing(spec: &Fields<'_>) -> Option<PolicySpec> {
    let common = Common::read(spec, &BALANCING_CONFIG);
    let backend = spec.required("backend", "add serviceEndpoint or addressEndpoint", |field| {
        backend::balancing(field, common.frontend.as_ref())
    });
    let affinity = affinity(spec);
    let on_no_backend = spec.optional("onNoBackend", |field| {
        field.choice(&[("Fallback", OnNoBackend::Fallback), ("Reject", OnNoBackend::Reject)])
    });
    Some(PolicySpec {
        enabled: common.enabled?,
        node_selector: common.node_selector?,
        out_cluster: common.out_cluster?,
        frontend: common.frontend?,
        backend: backend?,
        skip_redirect_from_backend: false,
        qos_limit: None,
        clients: Clients::All,
        affinity: affinity?,
        on_no_backend: on_no_backend?,
    })
}

/// The fields that both kinds have. `None` where a problem was reported.
struct Common {
    enabled: Option<bool>,
    node_selector: Option<LabelSelector>,
    out_cluster: Option<bool>,
    frontend: Option<FrontendSpec>,
}

impl Common {
    fn read(spec: &Fields<'_>, config: &Known) -> Self {
        let enabled = spec.or("enabled", true, |field| field.boolean());
        let config = spec.or("config", (Some(LabelSelector::default()), Some(true)), |field| {
            let fields = field.fields(config)?;
            let selector = fields.or("nodeLabelSelector", LabelSelector::default(), selector::read);
            Some((selector, fields.or("enableOutCluster", true, |field| field.boolean())))
        });
        let (node_selector, out_cluster) = config.unwrap_or_default();
        let frontend = spec.required("frontend", "add addressMatcher or serviceMatcher", frontend::read);
        Self { enabled, node_selector, out_cluster, frontend }
    }
}

/// `sessionAffinity` with its timeout.
fn affinity(spec: &Fields<'_>) -> Option<Option<u32>> {
    let client_ip =
        spec.or("sessionAffinity", false, |field| field.choice(&[("None", false), ("ClientIP", true)]));
    let timeout = spec.optional("sessionAffinityConfig", |field| {
        let fields = field.fields(&Known { names: &["clientIP"], elsewhere: &[] })?;
        fields.or("clientIP", AFFINITY_DEFAULT, |field| {
            let fields = field.fields(&Known { names: &["timeoutSeconds"], elsewhere: &[] })?;
            fields.or("timeoutSeconds", AFFINITY_DEFAULT, |field| field.integer(1..=AFFINITY_MAX))
        })
    });
    match (client_ip?, timeout?) {
        (true, timeout) => Some(Some(timeout.unwrap_or(AFFINITY_DEFAULT))),
        (false, None) => Some(None),
        (false, Some(_)) => spec.field().report_at(
            "sessionAffinityConfig",
            "is only allowed with sessionAffinity: ClientIP; remove it or set sessionAffinity".to_owned(),
        ),
    }
}
