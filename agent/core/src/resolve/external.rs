//! Which external addresses of a Service a BalancingPolicy may claim.
//!
//! Whoever may edit a Service can write any address into `externalIPs`, and must not get the connections to cluster DNS,
//! the API server or a node by that: an address that belongs to somebody else is left alone. An agent on a node does not
//! know all nodes. There an address counts only once the controller has approved it, so that none is claimed between the
//! edit of a Service and the controller's answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancing_abi::model::PolicyKind;

use crate::{
    bounds::MAX_EXTERNAL,
    objects::{FrontendSpec, ObjectRef, PolicyRef, PolicySpec, Service},
    resolve::{ClusterPods, Settings},
    snapshot::Snapshot,
};

/// So many addresses are written out before a message only counts.
const SHOWN: usize = 5;

/// The external addresses of a Service.
#[derive(Debug, Default)]
pub(super) struct External {
    /// May be claimed.
    pub(super) claimed: BTreeSet<IpAddr>,
    /// Are left alone, and why.
    pub(super) refused: BTreeMap<IpAddr, String>,
}

impl External {
    /// Judges the addresses of a policy's Service by all that is known here.
    pub(super) fn of(
        policy: &PolicyRef,
        service: &Service,
        snapshot: &Snapshot,
        settings: &Settings,
    ) -> Self {
        if settings.cluster_pods == ClusterPods::Selected {
            return Self::judge(service, snapshot, |_| true);
        }
        let approved = snapshot.approved(policy);
        Self::judge(service, snapshot, |address| approved.is_some_and(|a| a.binary_search(&address).is_ok()))
    }

    fn judge(service: &Service, snapshot: &Snapshot, is_approved: impl Fn(IpAddr) -> bool) -> Self {
        let mut external = Self::default();
        let own: BTreeSet<IpAddr> = service.cluster_ips.iter().map(IpAddr::to_canonical).collect();
        let addresses: BTreeSet<IpAddr> = service.external().map(IpAddr::to_canonical).collect();
        for address in addresses.difference(&own).copied() {
            let why = if let Some(why) = refusal(service, address, snapshot) {
                why
            } else if !is_approved(address) {
                "the controller has not approved it; the policy's status tells why".to_owned()
            } else if external.claimed.len() == MAX_EXTERNAL {
                format!("a policy claims at most {MAX_EXTERNAL} external addresses")
            } else {
                external.claimed.insert(address);
                continue;
            };
            external.refused.insert(address, why);
        }
        external
    }

    /// What is left alone, in a few sentences.
    pub(super) fn notes(&self, service: &ObjectRef) -> Vec<String> {
        let ObjectRef { namespace, name } = service;
        let sentence = |(address, why): (&IpAddr, &String)| {
            format!("external address {address} of Service {namespace}/{name} is left alone: {why}")
        };
        let mut notes: Vec<String> = self.refused.iter().take(SHOWN).map(sentence).collect();
        let more = self.refused.len() - notes.len();
        if more > 0 {
            notes.push(format!("so are {more} more external addresses"));
        }
        notes
    }
}

/// The external addresses that a policy may claim by all that is known here; `None` = it asks for none.
#[must_use]
pub fn approve(policy: &PolicyRef, spec: &PolicySpec, snapshot: &Snapshot) -> Option<BTreeSet<IpAddr>> {
    asks_for(policy, spec, snapshot).map(|service| External::judge(service, snapshot, |_| true).claimed)
}

/// The Service whose external addresses the policy asks for, if there are any.
pub(super) fn asks_for<'a>(
    policy: &PolicyRef,
    spec: &PolicySpec,
    snapshot: &'a Snapshot,
) -> Option<&'a Service> {
    let FrontendSpec::Service { service, .. } = &spec.frontend else { return None };
    let service = snapshot.service(service).filter(|_| policy.kind == PolicyKind::Balancing)?;
    service.has_external().then_some(service)
}

/// Why the address is none that the Service's editor may dispose of.
fn refusal(service: &Service, address: IpAddr, snapshot: &Snapshot) -> Option<String> {
    if let Some(kind) = special(address) {
        return Some(format!("it is {kind}"));
    }
    let is_own = |owner: &ObjectRef| owner.namespace == service.namespace && owner.name == service.name;
    if let Some(owner) = snapshot.with_cluster_ip(address).find(|owner| !is_own(owner)) {
        return Some(format!("it is the ClusterIP of {}/{}", owner.namespace, owner.name));
    }
    snapshot.node_at(address).map(|node| format!("it is an address of Node {node}"))
}

fn special(address: IpAddr) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let kinds = [
        (address.is_unspecified(), "the unspecified address"),
        (address.is_loopback(), "a loopback address"),
        (is_link_local, "a link-local address"),
        (address.is_multicast(), "a multicast address"),
        (address == IpAddr::from([255; 4]), "the broadcast address"),
    ];
    kinds.into_iter().find(|(is_it, _)| *is_it).map(|(_, kind)| kind)
}
