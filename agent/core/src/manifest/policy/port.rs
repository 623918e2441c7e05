//! Lists of `PortInfo`.

use std::collections::BTreeMap;

use balancing_abi::model::Protocol;
use serde_json::Value;

use crate::bounds::MAX_PORTS;
use crate::{
    manifest::{
        field::{Field, Known},
        name,
    },
    objects::{BackendPort, Port, PortRef},
};

const PORT: Known = Known {
    names: &["port", "protocol", "name"],
    elsewhere: &[("targetPort", "it belongs to serviceEndpoint.toPorts with redirectMode: nodeProxy")],
};

const PORT_WITH_TARGET: Known = Known { names: &["port", "protocol", "name", "targetPort"], elsewhere: &[] };

/// The ports of a frontend, at least `least`. The same port twice could lead to two places, so it is refused.
pub(super) fn frontend_list(field: &Field<'_>, least: usize) -> Option<Vec<Port>> {
    let ports = plain(list(field, least, &PORT)?);
    let mut seen = BTreeMap::new();
    let mut unique = true;
    for (index, (item, port)) in field.items()?.zip(&ports).enumerate() {
        if let Some(first) = seen.insert((port.port, port.protocol), index) {
            unique = false;
            item.report::<()>(format!(
                "must differ from the other ports, found {}/{} as in [{first}]; remove one",
                port.port, port.protocol
            ));
        }
    }
    unique.then_some(ports)
}

/// The ports of `addressEndpoint`.
pub(super) fn address_list(field: &Field<'_>, frontend: &[Port]) -> Option<Vec<Port>> {
    let ports = list(field, 1, &PORT)?;
    pair(field, &ports, frontend)?;
    Some(plain(ports))
}

/// The ports of a pod backend, with `targetPort` where it is allowed.
pub(super) fn pod_list(field: &Field<'_>, frontend: &[Port], targets: bool) -> Option<Vec<BackendPort>> {
    let ports = list(field, 1, if targets { &PORT_WITH_TARGET } else { &PORT })?;
    pair(field, &ports, frontend)?;
    Some(ports)
}

fn plain(ports: Vec<BackendPort>) -> Vec<Port> {
    ports.into_iter().map(|port| port.port).collect()
}

/// A single port on each side pairs whatever the names, but never across protocols.
fn pair(field: &Field<'_>, backend: &[BackendPort], frontend: &[Port]) -> Option<()> {
    let ([backend], [frontend]) = (backend, frontend) else { return Some(()) };
    if backend.port.protocol == frontend.protocol {
        return Some(());
    }
    let item = field.items()?.next()?;
    item.report_at(
        "protocol",
        format!(
            "must be the protocol of the only frontend port {}/{}, found {}; they can never pair, change one",
            frontend.port, frontend.protocol, backend.port.protocol
        ),
    )
}

fn list(field: &Field<'_>, least: usize, known: &Known) -> Option<Vec<BackendPort>> {
    let items = field.items()?;
    let count = items.len();
    if count < least {
        return field.report(format!("must have at least {least} port, found none; add one"));
    }
    field.at_most(MAX_PORTS, count, "ports")?;
    let mut names = BTreeMap::new();
    let ports: Vec<_> = items
        .enumerate()
        .map(|(index, item)| {
            let port = entry(&item, known, count > 1);
            let Some(name) = item.value().get("name").and_then(Value::as_str).filter(|name| !name.is_empty())
            else {
                return port;
            };
            match names.insert(name, index) {
                None => port,
                Some(first) => item.report_at(
                    "name",
                    format!("must be unique in the list, found {name:?} as in [{first}]; rename one"),
                ),
            }
        })
        .collect();
    ports.into_iter().collect()
}

fn entry(item: &Field<'_>, known: &Known, named: bool) -> Option<BackendPort> {
    let fields = item.fields(known)?;
    let port = fields.required("port", "add a port from 1 to 65535", number);
    let protocol = fields.or("protocol", Protocol::Tcp, protocol);
    // Clients written in Go send an unset name as "".
    let name = match fields.get("name").filter(|field| field.value().as_str() != Some("")) {
        Some(field) => field.text_like(name::is_port_name, name::PORT_NAME),
        None if named => item.report_at(
            "name",
            "is required as soon as a list has two ports; add a name that pairs frontend and backend"
                .to_owned(),
        ),
        None => Some(String::new()),
    };
    let target = fields.optional("targetPort", target);
    Some(BackendPort { port: Port { port: port?, protocol: protocol?, name: name? }, target: target? })
}

/// A port as text or integer.
fn number(field: &Field<'_>) -> Option<u16> {
    let number = match field.value() {
        Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(text) => decimal(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|port| *port != 0).or_else(|| {
        field.reject(
            "must be a port from 1 to 65535",
            "write only its digits, without sign, blank or leading zero",
        )
    })
}

fn decimal(text: &str) -> Option<u16> {
    let digits_only = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| digits_only)
}

fn protocol(field: &Field<'_>) -> Option<Protocol> {
    if field.value().as_str() == Some("SCTP") {
        return field.reject(
            "must be TCP or UDP, connections of other protocols cannot be redirected",
            "remove the port or change its protocol",
        );
    }
    field.choice(&[("TCP", Protocol::Tcp), ("UDP", Protocol::Udp)])
}

/// A port of the pod by number or name. A text of digits is a number, as everywhere in `PortInfo`.
fn target(field: &Field<'_>) -> Option<PortRef> {
    if field.value().as_str().is_some_and(|text| text.bytes().any(|b| !b.is_ascii_digit())) {
        field.text_like(name::is_port_name, name::PORT_NAME).map(PortRef::Name)
    } else {
        number(field).map(PortRef::Number)
    }
}
