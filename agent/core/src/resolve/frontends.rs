//! Which addresses and ports a policy's frontend stands for.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancing_abi::model::PolicyKind;

use crate::{
    objects::{FrontendSpec, ObjectRef, PolicyRef, Port, Service},
    plan::Reason,
    resolve::{Family, Settings, external::External},
    snapshot::Snapshot,
};

/// The frontend of a policy, resolved.
#[derive(Debug)]
pub(crate) struct Frontends<'a> {
    by_family: BTreeMap<Family, BTreeSet<IpAddr>>,
    /// The policy's ports as written; the Service's when the policy lists none.
    pub(crate) ports: Cow<'a, [Port]>,
    /// The policy lists no port: every port of the Service is meant.
    pub(crate) whole_service: bool,
    /// The Service, with `serviceMatcher`.
    pub(crate) service: Option<&'a Service>,
    /// External addresses of the Service that may not be claimed, and why.
    pub(crate) refused: BTreeMap<IpAddr, String>,
    /// The same in a few sentences.
    pub(crate) left_alone: Vec<String>,
}

/// Why a frontend cannot be resolved.
#[derive(Debug)]
pub(crate) struct Unresolved {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl<'a> Frontends<'a> {
    /// Resolves a frontend. A LocalRedirectPolicy takes the ClusterIPs of its Service, a
    /// BalancingPolicy also those external and load balancer addresses that it may claim.
    pub(crate) fn of(
        policy: &PolicyRef,
        spec: &'a FrontendSpec,
        snapshot: &'a Snapshot,
        settings: &Settings,
    ) -> Result<Self, Unresolved> {
        match spec {
            FrontendSpec::Address { ip, ports } => {
                Ok(Self::new([*ip], Cow::Borrowed(ports.as_slice()), None))
            }
            FrontendSpec::Service { service: key, ports } => {
                let service = usable(key, snapshot)?;
                let external = match policy.kind {
                    PolicyKind::LocalRedirect => External::default(),
                    PolicyKind::Balancing => External::of(policy, service, snapshot, settings),
                };
                if service.cluster_ips.is_empty() && external.claimed.is_empty() {
                    let why = "has no address that can be redirected; wait for a ClusterIP".to_owned();
                    let why: Vec<String> = [why].into_iter().chain(external.notes(key)).collect();
                    return Err(unsupported(key, &why.join("; ")));
                }
                let whole = ports.is_empty();
                let ports =
                    if whole { Cow::Owned(service_ports(service)) } else { Cow::Borrowed(ports.as_slice()) };
                let addresses = service.cluster_ips.iter().chain(&external.claimed).copied();
                let found = Self::new(addresses, ports, Some(service));
                Ok(Self {
                    whole_service: whole,
                    left_alone: external.notes(key),
                    refused: external.refused,
                    ..found
                })
            }
        }
    }

    fn new(
        addresses: impl IntoIterator<Item = IpAddr>,
        ports: Cow<'a, [Port]>,
        service: Option<&'a Service>,
    ) -> Self {
        let mut by_family = BTreeMap::<Family, BTreeSet<IpAddr>>::new();
        for address in addresses {
            let address = address.to_canonical();
            by_family.entry(Family::of(address)).or_default().insert(address);
        }
        Self {
            by_family,
            ports,
            whole_service: false,
            service,
            refused: BTreeMap::new(),
            left_alone: Vec::new(),
        }
    }

    /// The addresses by family; a family without an address is left out.
    pub(crate) fn families(&self) -> impl Iterator<Item = (Family, &BTreeSet<IpAddr>)> {
        self.by_family.iter().map(|(family, addresses)| (*family, addresses))
    }

    /// Whether the address is one of the frontend's.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.by_family.values().any(|addresses| addresses.contains(&address))
    }

    /// Whether the Service really has this port; a port that the policy invents is not created.
    pub(crate) fn offers(&self, port: &Port) -> bool {
        self.service.is_none_or(|service| {
            service.ports.iter().any(|known| (known.port, known.protocol) == (port.port, port.protocol))
        })
    }
}

fn usable<'a>(key: &ObjectRef, snapshot: &'a Snapshot) -> Result<&'a Service, Unresolved> {
    let Some(service) = snapshot.service(key) else {
        return Err(Unresolved {
            reason: Reason::ServiceNotFound,
            message: format!(
                "spec.frontend.serviceMatcher: Service {}/{} does not exist; create it or correct the name",
                key.namespace, key.name
            ),
        });
    };
    if service.external_name {
        return Err(unsupported(key, "is an ExternalName: it has no address; use addressMatcher"));
    }
    if service.headless {
        return Err(unsupported(
            key,
            "is headless: it has no ClusterIP; use addressMatcher or give it a ClusterIP",
        ));
    }
    Ok(service)
}

fn unsupported(key: &ObjectRef, why: &str) -> Unresolved {
    Unresolved {
        reason: Reason::UnsupportedService,
        message: format!("spec.frontend.serviceMatcher: Service {}/{} {why}", key.namespace, key.name),
    }
}

fn service_ports(service: &Service) -> Vec<Port> {
    let ports = service.ports.iter();
    ports.map(|p| Port { port: p.port, protocol: p.protocol, name: p.name.clone() }).collect()
}
