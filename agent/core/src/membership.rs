//! Whether this host is a member of a fabric, of which, and who the others are.
//!
//! Pure: it looks at objects alone. Which address of the host peers dial is not decided here, because that depends on the
//! host's interfaces; nor whether the device works.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    objects::{
        Acceptance, ExternalHostSpec, FabricSpec, LabelSelector, MemberKind, MemberSpec, Node, Owner,
        TunnelFabric, TunnelNode,
    },
    resolve::{ClusterPods, Role, Settings},
    snapshot::Snapshot,
};

mod accepted;
mod mac;
mod underlay;

pub use mac::{has_own_mac, mac_of};
pub use underlay::NodeAddresses;

/// What the objects say about this host and a fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership<'a> {
    /// There is no fabric for this host, and why.
    Outside(String),
    /// It should be a member and cannot, and why: what is there stays.
    Waiting(String),
    /// It is one, or about to be.
    Member(Member<'a>),
}

/// This host as a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The fabric.
    pub fabric: &'a TunnelFabric,
    /// The spec that is in force: the last that a controller has accepted.
    pub spec: &'a FabricSpec,
    /// The objects are files, which somebody writes by hand.
    pub is_by_hand: bool,
    /// The Node or ExternalHost that this host is.
    pub owner: Owner,
    /// `InternalIP`s of its Node.
    pub node_ips: Vec<IpAddr>,
    /// What an administrator allows a host outside; `None` on a node.
    pub permission: Option<&'a ExternalHostSpec>,
    /// How the fabric knows it; `None` = not yet.
    pub own: Option<&'a MemberSpec>,
    /// MAC of its device: the one that its name gives, whatever its TunnelNode says; in a directory what that says.
    pub mac: [u8; 6],
    /// The controller finds an address of it that nobody has claimed.
    pub lacks_claim: bool,
    /// The other members, by the names of their TunnelNodes. Of two that have an address the older one counts; but a Node's
    /// address in the underlay is that Node's.
    pub peers: BTreeMap<&'a str, &'a MemberSpec>,
    /// What is wrong with others, in words.
    pub problems: Vec<String>,
}

impl Member<'_> {
    /// Name of this host's TunnelNode.
    #[must_use]
    pub fn name(&self) -> String {
        self.owner.kind.object_name(&self.owner.name)
    }
}

/// Where a Node or ExternalHost belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs<'a> {
    /// This fabric, and the spec by which it does.
    To(&'a TunnelFabric, &'a FabricSpec),
    /// None.
    Nowhere,
    /// Perhaps this one, which is not valid or not accepted.
    Unclear(&'a TunnelFabric),
}

/// What the objects say about the host that the settings describe.
#[must_use]
pub fn membership<'a>(snapshot: &'a Snapshot, settings: &Settings) -> Membership<'a> {
    match settings.role {
        Role::Node => of_node(snapshot, settings),
        Role::External => of_host(snapshot, settings),
        Role::Cluster => Membership::Outside("the controller is no host".to_owned()),
    }
}

fn of_node<'a>(snapshot: &'a Snapshot, settings: &Settings) -> Membership<'a> {
    let name = settings.node_name.as_str();
    if snapshot.fabrics().next().is_none() {
        return Membership::Outside("there is no TunnelFabric".to_owned());
    }
    let Some(node) = snapshot.node(name) else {
        return Membership::Waiting(format!("Node {name} is not known"));
    };
    let fabric = match fabric_of_node(snapshot, node, is_by_hand(settings)) {
        Belongs::To(fabric, _) => fabric,
        Belongs::Unclear(fabric) => return Membership::Waiting(why_unclear(fabric, settings)),
        Belongs::Nowhere => {
            let wanting =
                snapshot.fabrics().find(|it| it.spec.as_ref().is_ok_and(|spec| selects(spec, node)));
            let pending = wanting.map(|fabric| format!("; {}", why_unclear(fabric, settings)));
            return Membership::Outside(format!(
                "no TunnelFabric's nodeSelector matches the labels of node {name}{}",
                pending.unwrap_or_default()
            ));
        }
    };
    let owner = Owner { kind: MemberKind::Node, name: name.to_owned(), uid: node.uid.clone() };
    let host = Host { owner, node_ips: node.ips.to_vec(), permission: None };
    member(snapshot, settings, fabric, host).map_or_else(Membership::Waiting, Membership::Member)
}

fn selects(spec: &FabricSpec, node: &Node) -> bool {
    spec.node_selector == LabelSelector::default() || spec.node_selector.matches(&node.labels)
}

/// The fabric of the Node or ExternalHost that a TunnelNode names, whatever the TunnelNode says of it.
#[must_use]
pub fn fabric_of<'a>(snapshot: &'a Snapshot, owner: &Owner) -> Belongs<'a> {
    if owner.kind == MemberKind::Node {
        return snapshot
            .node(&owner.name)
            .map_or(Belongs::Nowhere, |node| fabric_of_node(snapshot, node, false));
    }
    let host = snapshot.external_host(&owner.name).and_then(|host| host.spec.as_ref().ok());
    let fabric = host.and_then(|host| snapshot.fabrics().find(|fabric| fabric.name == host.fabric));
    match fabric.map(|fabric| (fabric, &fabric.spec)) {
        Some((fabric, Ok(spec))) => Belongs::To(fabric, spec),
        Some((fabric, Err(_))) => Belongs::Unclear(fabric),
        None => Belongs::Nowhere,
    }
}

/// The oldest one that selects it, by the spec that counts: who is a member by what a controller has accepted stays one, and nobody
/// joins, while it has not accepted what came after.
fn fabric_of_node<'a>(snapshot: &'a Snapshot, node: &Node, is_by_hand: bool) -> Belongs<'a> {
    let mut fabrics: Vec<_> = snapshot.fabrics().collect();
    fabrics.sort_by_key(|fabric| (fabric.created.is_none(), fabric.created, &fabric.name));
    let counting = |fabric: &'a TunnelFabric| {
        if is_by_hand { fabric.spec.as_ref().ok() } else { snapshot.accepted_spec(fabric) }
    };
    let selecting = fabrics.iter().find_map(|fabric| {
        let spec = counting(fabric).filter(|spec| selects(spec, node))?;
        Some((*fabric, spec))
    });
    if let Some((fabric, spec)) = selecting {
        return Belongs::To(fabric, spec);
    }
    // One of which nothing is known that counts may have been the one of this node: what it made stays.
    let own =
        snapshot.member(&MemberKind::Node.object_name(&node.name)).and_then(|own| own.spec.as_ref().ok());
    let may_select = |fabric: &TunnelFabric| {
        own.is_some_and(|own| own.fabric == fabric.name)
            || fabric.spec.as_ref().map_or(true, |spec| selects(spec, node))
    };
    let unclear = fabrics.into_iter().find(|fabric| counting(fabric).is_none() && may_select(fabric));
    unclear.map_or(Belongs::Nowhere, Belongs::Unclear)
}

fn of_host<'a>(snapshot: &'a Snapshot, settings: &Settings) -> Membership<'a> {
    let name = settings.node_name.as_str();
    let Some(host) = snapshot.external_hosts().find(|host| host.name == name) else {
        return Membership::Outside(format!("there is no ExternalHost {name}"));
    };
    let spec = match &host.spec {
        Ok(spec) if spec.paused => {
            return Membership::Outside(format!("ExternalHost {name} is paused by spec.paused"));
        }
        Ok(spec) => spec,
        Err(invalid) => return Membership::Waiting(first(invalid, &format!("ExternalHost {name}"))),
    };
    let Some(fabric) = snapshot.fabrics().find(|fabric| fabric.name == spec.fabric) else {
        return Membership::Outside(format!(
            "TunnelFabric {} of ExternalHost {name} does not exist",
            spec.fabric
        ));
    };
    let owner = Owner { kind: MemberKind::ExternalHost, name: name.to_owned(), uid: host.uid.clone() };
    let host = Host { owner, node_ips: Vec::new(), permission: Some(spec) };
    member(snapshot, settings, fabric, host).map_or_else(Membership::Waiting, Membership::Member)
}

/// Who this host is.
struct Host<'a> {
    owner: Owner,
    node_ips: Vec<IpAddr>,
    permission: Option<&'a ExternalHostSpec>,
}

/// This host in a fabric, or why it has to wait.
fn member<'a>(
    snapshot: &'a Snapshot,
    settings: &Settings,
    fabric: &'a TunnelFabric,
    Host { owner, node_ips, permission }: Host<'a>,
) -> Result<Member<'a>, String> {
    let (spec, pending) = spec_in_force(snapshot, settings, fabric)?;
    let is_by_hand = is_by_hand(settings);
    let broken = snapshot.members().filter_map(|member| Some((member, member.spec.as_ref().err()?)));
    let mut problems: Vec<_> = pending.into_iter().collect();
    problems.extend(broken.map(|(member, invalid)| first(invalid, &format!("TunnelNode {}", member.name))));
    let members = snapshot.members().filter_map(|member| of_fabric(member, fabric, spec)).collect();
    let rules = accepted::Rules { fabric: spec, nodes: NodeAddresses::of(snapshot), is_by_hand };
    let accepted = accepted::accept(members, &owner, &rules);
    problems.extend(accepted.problems);
    // One that is written by hand is looked at by its author. Agents write theirs anew.
    let name = owner.kind.object_name(&owner.name);
    let written = snapshot.members().find(|member| is_by_hand && member.name == name);
    problems.extend(written.and_then(|own| why_not_of(own, fabric, spec)));
    let own = accepted.own.and_then(|own| own.spec.as_ref().ok());
    let written = own.filter(|_| is_by_hand).map(|own| own.mac);
    Ok(Member {
        mac: written.unwrap_or_else(|| mac_of(&fabric.name, &owner.kind.object_name(&owner.name))),
        fabric,
        spec,
        is_by_hand,
        node_ips,
        permission,
        own,
        lacks_claim: accepted.own.is_some_and(|own| own.lacks_claim),
        peers: accepted.peers,
        problems,
        owner,
    })
}

/// The spec that counts, and why the object's own does not. What a controller has accepted goes on while it has not accepted what
/// came after: members come and go meanwhile, and who has left must be shut out.
fn spec_in_force<'a>(
    snapshot: &'a Snapshot,
    settings: &Settings,
    fabric: &'a TunnelFabric,
) -> Result<(&'a FabricSpec, Option<String>), String> {
    let why = match (&fabric.spec, why_not_accepted(fabric, settings)) {
        (Ok(spec), None) => return Ok((spec, None)),
        (Ok(_), Some(why)) => why,
        (Err(_), _) => why_broken(fabric),
    };
    match snapshot.accepted_spec(fabric) {
        Some(spec) => Ok((spec, Some(why))),
        None => Err(why),
    }
}

/// The spec of a member that belongs to the fabric as it is now.
fn of_fabric<'a>(
    member: &'a TunnelNode,
    fabric: &TunnelFabric,
    spec: &FabricSpec,
) -> Option<(&'a TunnelNode, &'a MemberSpec)> {
    let known = member.spec.as_ref().ok()?;
    let in_pool = |address: &IpAddr| spec.pools().any(|pool| pool.contains(*address));
    let fits = known.fabric == fabric.name && known.port == spec.port && known.addresses.iter().all(in_pool);
    fits.then_some((member, known))
}

/// Why a member does not belong to the fabric, in words.
fn why_not_of(member: &TunnelNode, fabric: &TunnelFabric, spec: &FabricSpec) -> Option<String> {
    let known = member.spec.as_ref().ok()?;
    let (of, name) = (&fabric.name, &member.name);
    let stray = known.addresses.iter().find(|address| !spec.pools().any(|pool| pool.contains(**address)));
    if known.fabric != *of {
        return Some(format!(
            "TunnelNode {name} is of spec.fabric {}, and TunnelFabric {of} is in force",
            known.fabric
        ));
    }
    if known.port != spec.port {
        return Some(format!(
            "TunnelNode {name} has spec.port {}, TunnelFabric {of} has {}",
            known.port, spec.port
        ));
    }
    stray.map(|address| {
        format!("TunnelNode {name} has the address {address}, which no pool of TunnelFabric {of} holds")
    })
}

/// Without a uid, as in files, the name decides.
fn is_of(spec: &MemberSpec, owner: &Owner) -> bool {
    let same = owner.uid.is_empty() || spec.uid.is_empty() || spec.uid == owner.uid;
    spec.kind == owner.kind && spec.name == owner.name && same
}

/// Whether the controller has looked at a fabric's networks: one that overlaps those of the cluster would draw their packets into
/// the tunnel.
fn why_not_accepted(fabric: &TunnelFabric, settings: &Settings) -> Option<String> {
    let name = &fabric.name;
    if is_by_hand(settings) {
        return None;
    }
    match &fabric.acceptance {
        Acceptance::Refused(why) => {
            Some(format!("TunnelFabric {name} is not accepted: {why}; what was in force before stays"))
        }
        Acceptance::Pending => Some(format!(
            "TunnelFabric {name} is not accepted yet; is a controller running (balancing-agent controller)?"
        )),
        Acceptance::Accepted => None,
    }
}

/// A directory has no controller, and nobody who writes members by himself.
fn is_by_hand(settings: &Settings) -> bool {
    settings.cluster_pods == ClusterPods::Selected
}

/// Why it is not known whom a fabric selects.
fn why_unclear(fabric: &TunnelFabric, settings: &Settings) -> String {
    match &fabric.spec {
        Ok(_) => why_not_accepted(fabric, settings).unwrap_or_default(),
        Err(_) => why_broken(fabric),
    }
}

fn why_broken(fabric: &TunnelFabric) -> String {
    match &fabric.spec {
        Err(invalid) => first(invalid, &format!("TunnelFabric {}", fabric.name)),
        Ok(_) => String::new(),
    }
}

fn first(invalid: &crate::objects::InvalidSpec, object: &str) -> String {
    let problem = invalid.problems.first().map(|p| format!("{}: {}", p.field, p.message));
    format!("{object} is not valid: {}", problem.unwrap_or_default())
}

#[cfg(test)]
mod tests;
