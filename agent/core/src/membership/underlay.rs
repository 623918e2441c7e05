//! Whose an address of the underlay is: what the status of a Node says counts more than what a member writes of itself.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    objects::{FabricSpec, MemberKind, MemberSpec},
    snapshot::Snapshot,
};

/// The addresses of the Nodes that are known: on a node its own, in the controller all.
#[derive(Debug, Default)]
pub struct NodeAddresses<'a> {
    holders: BTreeMap<IpAddr, Vec<&'a str>>,
}

impl<'a> NodeAddresses<'a> {
    /// Those in the status of the Nodes.
    #[must_use]
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mut holders = BTreeMap::<IpAddr, Vec<&str>>::new();
        for node in snapshot.nodes() {
            for address in node.ips.iter().chain(&node.other_ips) {
                holders.entry(*address).or_default().push(&node.name);
            }
        }
        Self { holders }
    }

    /// Whether a Node has it.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.holders.contains_key(&address)
    }

    /// An underlay address of the member that belongs to a Node which is not the member's, and that Node.
    #[must_use]
    pub fn other_holder(&self, member: &MemberSpec) -> Option<(IpAddr, &'a str)> {
        member.underlay().find_map(|address| {
            let holders = self.holders.get(&address)?;
            let has_it = member.kind == MemberKind::Node && holders.contains(&member.name.as_str());
            holders.first().filter(|_| !has_it).map(|node| (address, *node))
        })
    }

    /// Why nobody may dial the member where it says, in words.
    pub(super) fn objection(&self, member: &MemberSpec, fabric: &FabricSpec) -> Option<String> {
        if let Some((address, node)) = self.other_holder(member) {
            return Some(format!("has the underlay address {address}, which is an address of Node {node}"));
        }
        let inside = member.underlay().find(|address| fabric.pools().any(|pool| pool.contains(*address)))?;
        Some(format!("has the underlay address {inside}, which is of the fabric's own pool"))
    }
}
