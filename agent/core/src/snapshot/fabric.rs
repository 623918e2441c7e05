//! The objects of the fabric, and how often they have changed. Policies do not look at them.

use std::collections::BTreeMap;

use super::{Snapshot, replace};
use crate::kinds::Lacking;
use crate::objects::{ExternalHost, TunnelAddressClaim, TunnelFabric, TunnelNode};

/// The objects of the fabric, by name.
#[derive(Debug, Default)]
pub(super) struct FabricObjects {
    pub(super) fabrics: BTreeMap<String, TunnelFabric>,
    pub(super) members: BTreeMap<String, TunnelNode>,
    pub(super) external_hosts: BTreeMap<String, ExternalHost>,
    pub(super) claims: BTreeMap<String, TunnelAddressClaim>,
    pub(super) lacking: Lacking,
    /// Grows with every change.
    pub(super) revision: u64,
}

impl FabricObjects {
    pub(super) fn set_fabric(&mut self, name: &str, new: Option<TunnelFabric>) {
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
