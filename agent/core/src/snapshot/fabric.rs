//! The objects of the fabric, and how often they have changed. Policies do not look at them.

use std::collections::BTreeMap;

use super::{Snapshot, replace};
use crate::kinds::Lacking;
use crate::objects::{
    AcceptFrom, Acceptance, ExternalHost, FabricSpec, TunnelAddressClaim, TunnelFabric, TunnelNode,
};

/// The objects of the fabric, by name.
#[derive(Debug, Default)]
pub(super) struct FabricObjects {
    pub(super) fabrics: BTreeMap<String, TunnelFabric>,
    /// What a controller has accepted last of each, with its uid.
    accepted: BTreeMap<String, (String, FabricSpec)>,
    pub(super) members: BTreeMap<String, TunnelNode>,
    pub(super) external_hosts: BTreeMap<String, ExternalHost>,
    pub(super) claims: BTreeMap<String, TunnelAddressClaim>,
    pub(super) lacking: Lacking,
    /// Grows with every change.
    pub(super) revision: u64,
}

impl FabricObjects {
    pub(super) fn set_fabric(&mut self, name: &str, new: Option<TunnelFabric>) {
        let known = self.accepted.remove(name);
        if let Some(accepted) = new.as_ref().and_then(|new| accepted(new, known)) {
            self.accepted.insert(name.to_owned(), accepted);
        }
        let changed = replace(&mut self.fabrics, name, new).is_some();
        self.count(changed);
    }

    pub(super) fn set_member(&mut self, name: &str, new: Option<TunnelNode>) {
        let changed = replace(&mut self.members, name, new).is_some();
        self.count(changed);
    }

    pub(super) fn set_external_host(&mut self, name: &str, new: Option<ExternalHost>) {
        let changed = replace(&mut self.external_hosts, name, new).is_some();
        self.count(changed);
    }

    pub(super) fn set_claim(&mut self, name: &str, new: Option<TunnelAddressClaim>) {
        let changed = replace(&mut self.claims, name, new).is_some();
        self.count(changed);
    }

    pub(super) fn set_lacking(&mut self, lacking: Lacking) {
        let changed = self.lacking != lacking;
        self.lacking = lacking;
        self.count(changed);
    }

    pub(super) fn count(&mut self, changed: bool) {
        self.revision += u64::from(changed);
    }
}

/// What of a fabric's specs a controller has accepted. Whoever wants fewer to be let in is not kept waiting for one.
fn accepted(new: &TunnelFabric, known: Option<(String, FabricSpec)>) -> Option<(String, FabricSpec)> {
    let known = known.filter(|(uid, _)| *uid == new.uid);
    match (&new.acceptance, &new.spec) {
        (Acceptance::Accepted, Ok(spec)) => Some((new.uid.clone(), spec.clone())),
        (_, Ok(FabricSpec { accept_from: AcceptFrom::Members, .. })) => {
            known.map(|(uid, spec)| (uid, FabricSpec { accept_from: AcceptFrom::Members, ..spec }))
        }
        _ => known,
    }
}

impl Snapshot {
    /// The kinds of the fabric that are not known completely: it waits, policies do not.
    #[must_use]
    pub fn fabric_lacking(&self) -> &Lacking {
        &self.fabric.lacking
    }

    /// The TunnelFabrics, by name.
    pub fn fabrics(&self) -> impl Iterator<Item = &TunnelFabric> {
        self.fabric.fabrics.values()
    }

    /// The spec of a TunnelFabric that a controller has accepted last, as far as this process has seen it.
    #[must_use]
    pub fn accepted_spec(&self, fabric: &TunnelFabric) -> Option<&FabricSpec> {
        self.fabric.accepted.get(&fabric.name).map(|(_, spec)| spec)
    }

    /// The TunnelNodes, by name.
    pub fn members(&self) -> impl Iterator<Item = &TunnelNode> {
        self.fabric.members.values()
    }

    /// A TunnelNode.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&TunnelNode> {
        self.fabric.members.get(name)
    }

    /// The ExternalHosts, by name.
    pub fn external_hosts(&self) -> impl Iterator<Item = &ExternalHost> {
        self.fabric.external_hosts.values()
    }

    /// An ExternalHost.
    #[must_use]
    pub fn external_host(&self, name: &str) -> Option<&ExternalHost> {
        self.fabric.external_hosts.get(name)
    }

    /// The TunnelAddressClaims, by name.
    pub fn claims(&self) -> impl Iterator<Item = &TunnelAddressClaim> {
        self.fabric.claims.values()
    }

    /// A number that grows whenever an object of the fabric or a Node changes.
    #[must_use]
    pub fn fabric_revision(&self) -> u64 {
        self.fabric.revision
    }
}
