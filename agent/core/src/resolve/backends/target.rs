//! The pod's port behind a node's proxy address.

use crate::objects::{BackendPort, Pod, PortRef, Service};

/// Resolves `targetPort`. Without one the container port of the same name counts, else the
/// Service's target port of the same name, else the container port whose host port it is, else
/// the port itself. `None` = the policy names a container port that the pod does not have.
#[must_use]
pub fn port(port: &BackendPort, pod: &Pod, service: Option<&Service>) -> Option<u16> {
    let (number, protocol, name) = (port.port.port, port.port.protocol, &port.port.name);
    let ports = || pod.ports.iter().filter(|p| p.protocol == protocol);
    let named = |name: &str| ports().find(|p| !name.is_empty() && p.name == name).map(|p| p.port);
    match &port.target {
        Some(PortRef::Number(target)) => return Some(*target),
        Some(PortRef::Name(target)) => return named(target),
        None => {}
    }
    let of_service = || {
        let known =
            service?.ports.iter().find(|p| p.protocol == protocol && !name.is_empty() && p.name == *name)?;
        match &known.target {
            PortRef::Number(target) => Some(*target),
            PortRef::Name(target) => named(target),
        }
    };
    let behind_host_port = || ports().find(|p| p.host_port == Some(number)).map(|p| p.port);
    named(name).or_else(of_service).or_else(behind_host_port).or(Some(number))
}
