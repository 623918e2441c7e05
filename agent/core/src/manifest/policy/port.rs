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
    objects::{BackendPort, BackendSpec, PolicySpec, Port, PortRef},
};

const PORT: Known = Known {
    names: &["port", "protocol", "name"],
    elsewhere: &[("targetPort", "it belongs to serviceEndpoint.toPorts with redirectMode: nodeProxy")],
};

const PORT_WITH_TARGET: Known = Known { names: &["port", "protocol", "name", "targetPort"], elsewhere: &[] };

/// The ports of a frontend, at least `least`. The same port twice could lead to two places, so it is refused.
pub(super) fn frontend_list(field: &Field<'_>, least: usize) -> Option<Vec<Port>> {
    let ports = plain(list(field, least, false)?);
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
    let ports = list(field, 1, false)?;
    pair(field, &ports, frontend)?;
    Some(plain(ports))
}

/// The ports of a pod backend, with `targetPort` where it is allowed.
pub(super) fn pod_list(field: &Field<'_>, frontend: &[Port], targets: bool) -> Option<Vec<BackendPort>> {
    let ports = list(field, 1, targets)?;
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

/// `proxied`: ports behind a proxy address, which may have a targetPort and be left to the controller.
fn list(field: &Field<'_>, least: usize, proxied: bool) -> Option<Vec<BackendPort>> {
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
            let port = entry(&item, proxied, count > 1);
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

fn entry(item: &Field<'_>, proxied: bool, named: bool) -> Option<BackendPort> {
    let fields = item.fields(if proxied { &PORT_WITH_TARGET } else { &PORT })?;
    let automatic = proxied && fields.get("port").is_some_and(|field| is_zero(field.value()));
    let port = match automatic {
        true => Some(0),
        false => fields.required("port", "add a port from 1 to 65535", number),
    };
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
    let (name, target) = (name?, target?);
    if automatic && target.is_none() && name.is_empty() {
        let message = "is required with port 0 and without a name; add the port of the pods";
        return item.report_at("targetPort", message.to_owned());
    }
    Some(BackendPort { port: Port { port: port?, protocol: protocol?, name }, automatic, target })
}

fn is_zero(value: &Value) -> bool {
    value.as_u64() == Some(0) || value.as_str() == Some("0")
}

/// `status.proxyPorts` of a policy; what the controller would not write is left out.
pub(super) fn given(tree: &Value) -> Vec<Port> {
    let entries = tree.pointer("/status/proxyPorts").and_then(Value::as_array).into_iter().flatten();
    let port = |entry: &Value| {
        let text = |field| entry.get(field).and_then(Value::as_str);
        let protocol = match text("protocol") {
            Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            _ => return None,
        };
        let port = u16::try_from(entry.get("port")?.as_u64()?).ok().filter(|port| *port != 0)?;
        Some(Port { port, protocol, name: text("name").unwrap_or_default().to_owned() })
    };
    entries.filter_map(port).collect()
}

/// The spec with what the controller gave to automatic ports.
pub(super) fn with_given(mut spec: PolicySpec, given: &[Port]) -> PolicySpec {
    if let BackendSpec::Pods { pods, .. } = &mut spec.backend {
        for BackendPort { port, .. } in pods.ports.iter_mut().filter(|port| port.automatic) {
            let same = |it: &&Port| it.name == port.name && it.protocol == port.protocol;
            port.port = given.iter().find(same).map_or(0, |it| it.port);
        }
    }
    spec
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
