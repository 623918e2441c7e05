//! The objects of the fabric, and how often they have changed. Policies do not look at them.

use std::collections::BTreeMap;

use super::replace;
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
