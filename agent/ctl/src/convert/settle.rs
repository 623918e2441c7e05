//! What concerns several objects: one name twice, one id twice, one frontend twice.

use std::collections::{BTreeMap, btree_map::Entry};

use balancing_dataplane::model::Protocol;
use serde_json::Value;

use super::{Converted, Note, Origin, Report, metadata::field};
use balancing_core::objects::{FrontendSpec, Policy, PolicyRef};

/// A policy by what it redirects.
struct Claim<'a> {
    policy: &'a PolicyRef,
    /// Empty = every port of the Service.
    ports: Vec<(u16, Protocol)>,
}

/// The objects by kind and name. Objects that are ours already come before converted ones.
pub(super) fn settle(mut converted: Vec<Converted>, notes: &mut Vec<Note>) -> Vec<Value> {
    converted.sort_by_key(|c| c.origin);
    let mut kept = BTreeMap::new();
    for new in converted {
        match kept.entry((new.policy.id.kind.kind(), new.policy.id.name.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(new);
            }
            Entry::Occupied(entry) => twice(&new, entry.get(), notes),
        }
    }
    shared_ids(kept.values(), notes);
    shared_frontends(kept.values(), notes);
    kept.into_values().map(|c| c.tree).collect()
}

fn twice(new: &Converted, first: &Converted, notes: &mut Vec<Note>) {
    let mut report = Report::new(&new.source, &new.title, notes);
    let same = new.policy.spec == first.policy.spec && new.policy.service_id == first.policy.service_id;
    if same && new.origin == first.origin {
        report.note(
            "metadata.name",
            format!("appears in {} with the same spec; one of them is kept", first.source),
        );
    } else if same {
        report.note(
            "metadata.name",
            format!("{} in {} is its conversion already; that one is kept", first.title, first.source),
        );
    } else {
        report.error(
            "metadata.name",
            format!(
                "{} in {} has the same name and another spec; remove or rename one",
                first.title, first.source
            ),
        );
    }
}

fn shared_ids<'a>(all: impl Iterator<Item = &'a Converted>, notes: &mut Vec<Note>) {
    let mut owners: BTreeMap<u32, &'a Converted> = BTreeMap::new();
    for new in all {
        let Some(id) = new.policy.service_id else { continue };
        match owners.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(new);
            }
            Entry::Occupied(entry) => Report::new(&new.source, &new.title, notes).warn(
                field("balancing.elf.io/serviceId"),
                format!(
                    "{} has the id {id} too; the younger of the two is Conflicted, change one",
                    entry.get().title
                ),
            ),
        }
    }
}

fn shared_frontends<'a>(all: impl Iterator<Item = &'a Converted>, notes: &mut Vec<Note>) {
    let mut targets: BTreeMap<String, Vec<Claim<'a>>> = BTreeMap::new();
    for new in all {
        let Some((target, claim)) = claim(&new.policy) else { continue };
        let others = targets.entry(target).or_default();
        let mut report = Report::new(&new.source, &new.title, notes);
        for other in others.iter().filter(|other| other.overlaps(&claim)) {
            let name = format!("{} {}", other.policy.kind.kind(), other.policy.name);
            if other.policy.kind == claim.policy.kind {
                report.warn(
                    frontend_field(new),
                    format!("{name} redirects the same; the older one decides, then the smaller name"),
                );
            } else {
                report.note(
                    frontend_field(new),
                    format!(
                        "{name} redirects the same; they layer, and the LocalRedirectPolicy decides first"
                    ),
                );
            }
        }
        others.push(claim);
    }
}

fn frontend_field(of: &Converted) -> &'static str {
    match of.origin {
        Origin::Own => "spec.frontend",
        Origin::Cilium => "spec.redirectFrontend",
    }
}

/// What a policy redirects: an address or a Service, and its ports. A disabled one redirects nothing.
fn claim(policy: &Policy) -> Option<(String, Claim<'_>)> {
    let spec = policy.spec.as_ref().ok().filter(|spec| spec.enabled)?;
    let (target, ports) = match &spec.frontend {
        FrontendSpec::Address { ip, ports } => (ip.to_string(), ports),
        FrontendSpec::Service { service, ports } => {
            (format!("{}/{}", service.namespace, service.name), ports)
        }
    };
    let ports = ports.iter().map(|port| (port.port, port.protocol)).collect();
    Some((target, Claim { policy: &policy.id, ports }))
}

impl Claim<'_> {
    fn overlaps(&self, other: &Self) -> bool {
        self.ports.is_empty()
            || other.ports.is_empty()
            || self.ports.iter().any(|port| other.ports.contains(port))
    }
}
