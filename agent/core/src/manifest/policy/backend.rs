//! `spec.backend` of both kinds.

use super::{address, frontend, port, selector};
use crate::{
    manifest::{
        field::{Field, Fields, Known},
        name,
    },
    objects::{BackendSpec, FrontendSpec, PodBackend, Port, RedirectMode},
};

const LOCAL_PODS: Known = Known {
    names: &["endpointSelector", "namespace", "toPorts"],
    elsewhere: &[
        ("serviceEndpoint", "it belongs to BalancingPolicy"),
        ("addressEndpoint", "it belongs to BalancingPolicy"),
        ("redirectMode", "it belongs to BalancingPolicy"),
    ],
};

const BALANCING: Known = Known {
    names: &["serviceEndpoint", "addressEndpoint"],
    elsewhere: &[
        ("endpointSelector", "it belongs to serviceEndpoint"),
        ("namespace", "it belongs to serviceEndpoint"),
        ("redirectMode", "it belongs to serviceEndpoint"),
        ("addresses", "it belongs to addressEndpoint"),
        ("toPorts", "it belongs to serviceEndpoint or addressEndpoint"),
    ],
};

const PODS: Known = Known {
    names: &["endpointSelector", "namespace", "redirectMode", "toPorts"],
    elsewhere: &[("addresses", "it belongs to addressEndpoint")],
};

const ADDRESSES: Known = Known {
    names: &["addresses", "toPorts"],
    elsewhere: &[
        ("endpointSelector", "it belongs to serviceEndpoint"),
        ("namespace", "it belongs to serviceEndpoint"),
        ("redirectMode", "it belongs to serviceEndpoint"),
        ("healthCheck", "it is not supported by this version"),
    ],
};

const MODES: &[(&str, RedirectMode)] = &[
    ("podEndpoint", RedirectMode::PodEndpoint),
    ("hostPort", RedirectMode::HostPort),
    ("nodeProxy", RedirectMode::NodeProxy),
];

/// `spec.backend` of a LocalRedirectPolicy.
pub(super) fn local_pods(field: &Field<'_>, frontend: Option<&FrontendSpec>) -> Option<BackendSpec> {
    let fields = field.fields(&LOCAL_PODS)?;
    pods(&fields, frontend, Some(RedirectMode::PodEndpoint)).map(BackendSpec::LocalPods)
}

/// `spec.backend` of a BalancingPolicy.
pub(super) fn balancing(field: &Field<'_>, frontend: Option<&FrontendSpec>) -> Option<BackendSpec> {
    let fields = field.fields(&BALANCING)?;
    let one = fields.exactly_one("serviceEndpoint", "addressEndpoint");
    let service = fields.optional("serviceEndpoint", |field| {
        let fields = field.fields(&PODS)?;
        let mode = fields.or("redirectMode", RedirectMode::PodEndpoint, |field| field.choice(MODES));
        let pods = pods(&fields, frontend, mode);
        Some(BackendSpec::Pods { pods: pods?, mode: mode? })
    });
    let address = fields.optional("addressEndpoint", |field| {
        let fields = field.fields(&ADDRESSES)?;
        let addresses = fields.required("addresses", "add at least one address", address::list);
        let ports = fields.required("toPorts", "add at least one port", |field| {
            port::address_list(field, frontend_ports(frontend))
        });
        Some(BackendSpec::Addresses { addresses: addresses?, ports: ports? })
    });
    one?;
    service?.or(address?)
}

/// Pods by label. `mode` is `None` when it could not be read.
fn pods(
    fields: &Fields<'_>,
    frontend: Option<&FrontendSpec>,
    mode: Option<RedirectMode>,
) -> Option<PodBackend> {
    let selector = fields.required("endpointSelector", "add matchLabels, or {} for all pods", selector::read);
    let namespace =
        fields.optional("namespace", |field| field.text_like(name::is_dns_label, name::DNS_LABEL));
    let ports = fields.required("toPorts", "add at least one port", |field| {
        port::pod_list(
            field,
            frontend_ports(frontend),
            mode.is_none_or(|mode| mode == RedirectMode::NodeProxy),
        )
    });
    Some(PodBackend { selector: selector?, namespace: namespace?, ports: ports? })
}

fn frontend_ports(frontend: Option<&FrontendSpec>) -> &[Port] {
    frontend.map(frontend::ports).unwrap_or_default()
}
