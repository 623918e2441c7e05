//! `spec.frontend` of both kinds.

use serde_json::Value;

use super::{address, port};
use crate::{
    manifest::{
        field::{Field, Known},
        name,
    },
    objects::{FrontendSpec, ObjectRef, Port},
};

const FRONTEND: Known = Known { names: &["addressMatcher", "serviceMatcher"], elsewhere: &[] };

const ADDRESS: Known = Known {
    names: &["ip", "toPorts"],
    elsewhere: &[
        ("serviceName", "it belongs to serviceMatcher"),
        ("namespace", "it belongs to serviceMatcher"),
    ],
};

const SERVICE: Known = Known {
    names: &["serviceName", "namespace", "toPorts"],
    elsewhere: &[("ip", "it belongs to addressMatcher")],
};

/// Reads the frontend.
pub(super) fn read(field: &Field<'_>) -> Option<FrontendSpec> {
    let fields = field.fields(&FRONTEND)?;
    let one = fields.exactly_one("addressMatcher", "serviceMatcher");
    let address = fields.optional("addressMatcher", address_matcher);
    let service = fields.optional("serviceMatcher", service_matcher);
    one?;
    address?.or(service?)
}

fn address_matcher(field: &Field<'_>) -> Option<FrontendSpec> {
    let fields = field.fields(&ADDRESS)?;
    let ip = fields.required("ip", "add the virtual address", address::ip);
    let ports = fields.required("toPorts", "add at least one port", |field| port::frontend_list(field, 1));
    Some(FrontendSpec::Address { ip: ip?, ports: ports? })
}

fn service_matcher(field: &Field<'_>) -> Option<FrontendSpec> {
    let fields = field.fields(&SERVICE)?;
    let label = |field: &Field<'_>| field.text_like(name::is_dns_label, name::DNS_LABEL);
    let name = fields.required("serviceName", "add the name of the Service", label);
    let namespace = fields.required("namespace", "add the namespace of the Service", label);
    let ports = fields.or("toPorts", Vec::new(), |field| port::frontend_list(field, 0));
    Some(FrontendSpec::Service { service: ObjectRef { namespace: namespace?, name: name? }, ports: ports? })
}

/// What a frontend names, whatever else is wrong with it; without ports.
pub(super) fn named(value: Option<&Value>) -> Vec<FrontendSpec> {
    let text = |pointer: &str| value?.pointer(pointer)?.as_str();
    let address = text("/addressMatcher/ip").and_then(|ip| address::usable_ip(ip).ok());
    let address = address.map(|ip| FrontendSpec::Address { ip, ports: Vec::new() });
    let service = text("/serviceMatcher/namespace").zip(text("/serviceMatcher/serviceName"));
    let service = service.map(|(namespace, name)| FrontendSpec::Service {
        service: ObjectRef { namespace: namespace.to_owned(), name: name.to_owned() },
        ports: Vec::new(),
    });
    address.into_iter().chain(service).collect()
}

/// The ports that the frontend names; empty for every port of a Service.
pub(super) fn ports(frontend: &FrontendSpec) -> &[Port] {
    match frontend {
        FrontendSpec::Address { ports, .. } | FrontendSpec::Service { ports, .. } => ports,
    }
}
