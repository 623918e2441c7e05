//! Under which address a pod takes connections, and its port behind a node's proxy address. Who knows the pod decides
//! it: an agent for the pods of its node, the controller, which lists the address, for all others.

use std::net::IpAddr;

use super::Family;
use crate::objects::{BackendPort, Node, Pod, PortRef, RedirectMode, Service};

/// Why a selected pod cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// It has no address in the family.
    NoAddress,
    /// Its node opens no such port for it.
    NoHostPort,
    /// Its node has no address in the family.
    NoNodeAddress,
    /// Its node has no proxy address in the family.
    NoProxyAddress,
    /// The policy names a container port that it does not have.
    NoTargetPort,
}

/// The address under which a pod of `node` is reached at `port`. The way through a node ends at an address of the pod in
/// the same family; where no address of the pod is known at all, the node is believed.
///
/// # Errors
/// What is missing.
pub fn address(
    pod: &Pod,
    node: Option<&Node>,
    port: &BackendPort,
    mode: RedirectMode,
    family: Family,
    service: Option<&Service>,
) -> Result<IpAddr, Obstacle> {
    let own = family.pick(&pod.ips);
    if own.is_none() && (mode == RedirectMode::PodEndpoint || !pod.ips.is_empty()) {
        return Err(Obstacle::NoAddress);
    }
    match mode {
        RedirectMode::PodEndpoint => own.ok_or(Obstacle::NoAddress),
        RedirectMode::HostPort => {
            if !pod.opens_on_node(&port.port) {
                return Err(Obstacle::NoHostPort);
            }
            let told = family.pick(&pod.host_ips);
            told.or_else(|| family.pick(&node?.ips)).ok_or(Obstacle::NoNodeAddress)
        }
        RedirectMode::NodeProxy => {
            self::port(port, pod, service).ok_or(Obstacle::NoTargetPort)?;
            node.and_then(|node| family.pick(&node.proxy_ips)).ok_or(Obstacle::NoProxyAddress)
        }
    }
}

/// Resolves `targetPort`. Without one the container port of the same name counts, else the
/// Service's target port of the same name, else the container port whose host port it is, else
/// the port itself, unless the controller chose that. `None` = the policy names a container port that the pod does not have.
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
    let own = (!port.automatic).then_some(number);
    named(name).or_else(of_service).or_else(|| own.and_then(|_| behind_host_port())).or(own)
}
