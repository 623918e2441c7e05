//! Whose address is it: ClusterIPs and external addresses of Services, and addresses of nodes.
//!
//! It knows the owners of an address and nothing of what that means.

use std::{collections::BTreeSet, net::IpAddr};

use crate::objects::{Node, ObjectRef, Service};

/// The owners of all addresses.
#[derive(Debug, Default)]
pub(super) struct AddressIndex {
    cluster_ips: BTreeSet<(IpAddr, ObjectRef)>,
    external: BTreeSet<(IpAddr, ObjectRef)>,
    nodes: BTreeSet<(IpAddr, String)>,
}

impl AddressIndex {
    /// Takes in that a Service was another; the addresses whose status as a ClusterIP may have changed.
    pub(super) fn change_service(
        &mut self,
        key: &ObjectRef,
        old: Option<&Service>,
        new: Option<&Service>,
    ) -> Vec<IpAddr> {
        let cluster_ips = |service: Option<&Service>| set(service.into_iter().flat_map(|s| &s.cluster_ips));
        let external = |service: Option<&Service>| set(service.into_iter().flat_map(Service::external));
        change(&mut self.external, key, &external(old), &external(new));
        change(&mut self.cluster_ips, key, &cluster_ips(old), &cluster_ips(new))
    }

    /// Takes in that a node was another; the addresses whose status as a node's may have changed.
    pub(super) fn change_node(&mut self, name: &str, old: Option<&Node>, new: Option<&Node>) -> Vec<IpAddr> {
        let addresses = |node: Option<&Node>| set(node.into_iter().flat_map(Node::addresses));
        change(&mut self.nodes, &name.to_owned(), &addresses(old), &addresses(new))
    }

    /// The Services that have it as ClusterIP.
    pub(super) fn with_cluster_ip(&self, address: IpAddr) -> impl Iterator<Item = &ObjectRef> {
        owners(&self.cluster_ips, address, ObjectRef { namespace: String::new(), name: String::new() })
    }

    /// The Services that have it as external address.
    pub(super) fn with_external(&self, address: IpAddr) -> impl Iterator<Item = &ObjectRef> {
        owners(&self.external, address, ObjectRef { namespace: String::new(), name: String::new() })
    }

    /// The nodes that have it.
    pub(super) fn nodes_with(&self, address: IpAddr) -> impl Iterator<Item = &String> {
        owners(&self.nodes, address, String::new())
    }
}

fn set<'a, I: Iterator<Item = &'a IpAddr>>(addresses: I) -> BTreeSet<IpAddr> {
    addresses.map(IpAddr::to_canonical).collect()
}

/// Moves an owner from its old addresses to the new ones; those of which it is owner only before or after.
fn change<K: Ord + Clone>(
    index: &mut BTreeSet<(IpAddr, K)>,
    owner: &K,
    old: &BTreeSet<IpAddr>,
    new: &BTreeSet<IpAddr>,
) -> Vec<IpAddr> {
    for gone in old.difference(new) {
        index.remove(&(*gone, owner.clone()));
    }
    index.extend(new.difference(old).map(|address| (*address, owner.clone())));
    old.symmetric_difference(new).copied().collect()
}

fn owners<K: Ord>(index: &BTreeSet<(IpAddr, K)>, address: IpAddr, first: K) -> impl Iterator<Item = &K> {
    index.range((address, first)..).take_while(move |(found, _)| *found == address).map(|(_, owner)| owner)
}
