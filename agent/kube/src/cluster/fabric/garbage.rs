//! What members of a fabric left behind or have no right to: TunnelNodes and TunnelAddressClaims.
//!
//! An address is whose claim of it is; a TunnelNode with the address of another claim goes, and so does one with the underlay
//! address of another Node, for whoever has stolen a member's token writes what he likes. An owner is a Node or ExternalHost with the uid that the object names; another one of the same name inherits nothing. A
//! claim is kept for a while, so that a member that is made anew does not meet its own address in other hands.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use jiff::Timestamp;

use super::Known;
use crate::source::Kind;
use balancing_core::{
    membership::{Belongs, NodeAddresses, fabric_of, has_own_mac},
    objects::{
        Acceptance, ClaimSpec, ExternalHostSpec, MemberKind, MemberSpec, Owner, TunnelAddressClaim,
        TunnelFabric, TunnelNode,
    },
    snapshot::Snapshot,
};

/// How long an address stays taken without an owner, and a TunnelNode without its fabric, which may be made again.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// The same of a TunnelNode: objects of different kinds are not heard of in the order in which they were made.
const GRACE_OF_MEMBER: Duration = Duration::from_secs(2);
/// So long an agent may take to describe itself to another fabric, and a kubelet to report an address that has moved.
const GRACE_OF_MOVE: Duration = Duration::from_secs(15);
/// Claims that an owner may have beside those in use: an agent that is killed leaves at most one of each pool.
const SPARE: usize = 4;
/// Silence after which a host outside the cluster has left.
const SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// An object that nobody owns, or to which its owner has no right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster) struct Remains {
    /// TunnelNode or TunnelAddressClaim.
    pub(in crate::cluster) kind: Kind,
    pub(in crate::cluster) name: String,
    pub(in crate::cluster) uid: String,
    /// The fabric that it names.
    pub(in crate::cluster) fabric: String,
    /// Whom it names.
    pub(in crate::cluster) owner: Owner,
    /// Why it may go.
    pub(in crate::cluster) why: Gone,
    /// The fabric by the spec that counts, which the server may not tell any more.
    pub(in crate::cluster) accepted: Option<Box<TunnelFabric>>,
}

/// Why something may go. Before that the API server is asked about whatever is of another object, for objects are not heard of in
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Gone {
    /// There is none with this uid.
    Owner,
    /// The host is paused.
    Paused,
    /// The host may not have this underlay address.
    Underlay,
    /// Its MAC is not its own.
    Mac,
    /// The underlay address is one of another Node.
    UnderlayOf { address: IpAddr, node: String },
    /// The host has not been heard of for a day; when, by its own clock, it renewed its Lease last.
    Silent(Timestamp),
    /// The owner belongs to another fabric, or to none.
    Outside,
    /// There is no such fabric.
    NoFabric,
    /// Somebody else has claimed an address that it has.
    Claimed { address: IpAddr, by: Owner },
    /// The TunnelNode of the owner does not have the address.
    Unused(IpAddr),
    /// The same, and the owner has many of these.
    Surplus(IpAddr),
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("its owner is gone"),
            Self::Paused => f.write_str("its ExternalHost is paused"),
            Self::Underlay => f.write_str("its underlay address is not of its ExternalHost's networks"),
            Self::Mac => f.write_str("its MAC is not its own"),
            Self::UnderlayOf { address, node } => {
                write!(f, "its underlay address {address} is an address of Node {node}")
            }
            Self::Silent(_) => f.write_str("its host has not renewed its Lease for a day"),
            Self::Outside => f.write_str("its owner is not in that fabric any more"),
            Self::NoFabric => f.write_str("its fabric is gone"),
            Self::Claimed { address, by } => {
                write!(f, "its address {address} is claimed by {} {}", by.kind.kind(), by.name)
            }
            Self::Unused(_) => f.write_str("the TunnelNode of its owner does not have the address"),
            Self::Surplus(_) => {
                write!(
                    f,
                    "its owner has claimed more than {SPARE} addresses that its TunnelNode does not have"
                )
            }
        }
    }
}

impl Remains {
    /// How long it stays.
    pub(super) fn grace(&self) -> Duration {
        match (&self.why, self.kind) {
            (Gone::Surplus(_) | Gone::UnderlayOf { .. } | Gone::Outside, _) => GRACE_OF_MOVE,
            (Gone::NoFabric, _) => GRACE,
            (_, Kind::TunnelNode) => GRACE_OF_MEMBER,
            _ => GRACE,
        }
    }
}

/// Everything that may go now.
pub(super) fn remains(known: &Known<'_>) -> Vec<Remains> {
    let nodes = NodeAddresses::of(known.snapshot);
    let claims = claims(known);
    let members = known.snapshot.members().filter_map(|member| {
        let spec = member.spec.as_ref().ok()?;
        let why =
            member_is_gone(known, member, spec).or_else(|| is_claimed(&claims, spec)).or_else(|| {
                nodes
                    .other_holder(spec)
                    .map(|(address, node)| Gone::UnderlayOf { address, node: node.to_owned() })
            })?;
        Some(Remains {
            kind: Kind::TunnelNode,
            name: member.name.clone(),
            uid: member.uid.clone(),
            fabric: spec.fabric.clone(),
            owner: spec.owner(),
            why,
            accepted: accepted(known.snapshot, &spec.fabric),
        })
    });
    members.chain(claims_left(known)).collect()
}

/// A fabric as it was when a controller accepted it last.
fn accepted(snapshot: &Snapshot, name: &str) -> Option<Box<TunnelFabric>> {
    let fabric = snapshot.fabrics().find(|fabric| fabric.name == name)?;
    let spec = snapshot.accepted_spec(fabric)?.clone();
    Some(Box::new(TunnelFabric { acceptance: Acceptance::Accepted, spec: Ok(spec), ..fabric.clone() }))
}

/// The valid claims by address.
pub(super) fn claims<'a>(known: &Known<'a>) -> BTreeMap<IpAddr, &'a ClaimSpec> {
    let valid = known.snapshot.claims().filter_map(|claim| claim.spec.as_ref().ok());
    valid.map(|spec| (spec.address, spec)).collect()
}

fn is_claimed(claims: &BTreeMap<IpAddr, &ClaimSpec>, member: &MemberSpec) -> Option<Gone> {
    let owner = member.owner();
    let claimed = member.addresses.iter().filter_map(|address| claims.get(address));
    let other = claimed.into_iter().find(|claim| claim.owner != owner)?;
    Some(Gone::Claimed { address: other.address, by: other.owner.clone() })
}

fn claims_left(known: &Known<'_>) -> Vec<Remains> {
    let mut all: Vec<(&TunnelAddressClaim, &ClaimSpec)> =
        known.snapshot.claims().filter_map(|claim| Some((claim, claim.spec.as_ref().ok()?))).collect();
    // The first ones of an owner stay longer.
    all.sort_by_key(|(claim, _)| (claim.created.unwrap_or(i64::MAX), &claim.name));
    let mut spare = BTreeMap::<&Owner, usize>::new();
    let left = all.into_iter().filter_map(|(claim, spec)| {
        let unused = || {
            if is_in_use(known, spec) {
                return None;
            }
            let count = spare.entry(&spec.owner).or_default();
            *count += 1;
            Some(if *count > SPARE { Gone::Surplus(spec.address) } else { Gone::Unused(spec.address) })
        };
        let why = owner_is_gone(known, &spec.owner).or_else(unused)?;
        Some(Remains {
            kind: Kind::TunnelAddressClaim,
            name: claim.name.clone(),
            uid: claim.uid.clone(),
            fabric: spec.fabric.clone(),
            owner: spec.owner.clone(),
            why,
            accepted: None,
        })
    });
    left.collect()
}

/// Whether the owner's TunnelNode has the address. Of one that cannot be read it is not known.
fn is_in_use(known: &Known<'_>, claim: &ClaimSpec) -> bool {
    let member = known.snapshot.member(&claim.owner.kind.object_name(&claim.owner.name));
    member.is_some_and(|member| match &member.spec {
        Ok(spec) => spec.owner() == claim.owner && spec.addresses.contains(&claim.address),
        Err(_) => true,
    })
}

fn owner_is_gone(known: &Known<'_>, owner: &Owner) -> Option<Gone> {
    let uid = match owner.kind {
        MemberKind::Node => known.snapshot.node(&owner.name).map(|node| &node.uid),
        MemberKind::ExternalHost => known.snapshot.external_host(&owner.name).map(|host| &host.uid),
    };
    if uid != Some(&owner.uid) {
        return Some(Gone::Owner);
    }
    let lease = (owner.kind == MemberKind::ExternalHost)
        .then(|| known.reading.leases.get(&owner.kind.object_name(&owner.name)))?;
    let silent = lease.filter(|lease| known.at.saturating_duration_since(lease.seen) > SILENCE);
    silent.map(|lease| Gone::Silent(lease.renewed))
}

fn member_is_gone(known: &Known<'_>, member: &TunnelNode, spec: &MemberSpec) -> Option<Gone> {
    owner_is_gone(known, &spec.owner()).or_else(|| has_no_right(known.snapshot, member, spec))
}

/// Why a member whose owner is there may go, by its own words, its owner's and the fabrics' alone.
pub(in crate::cluster) fn has_no_right(
    snapshot: &Snapshot,
    member: &TunnelNode,
    spec: &MemberSpec,
) -> Option<Gone> {
    let left = has_left(snapshot, &spec.owner(), &spec.fabric);
    let host = || match spec.kind {
        MemberKind::Node => None,
        MemberKind::ExternalHost => {
            let host = snapshot.external_host(&spec.name)?.spec.as_ref().ok()?;
            let misplaced = (!may_have_underlay(host, spec)).then_some(Gone::Underlay);
            if host.paused { Some(Gone::Paused) } else { misplaced }
        }
    };
    left.or_else(host).or_else(|| (!has_own_mac(member)).then_some(Gone::Mac))
}

fn has_left(snapshot: &Snapshot, owner: &Owner, fabric: &str) -> Option<Gone> {
    let own = snapshot.fabrics().find(|it| it.name == fabric);
    // A controller that has just started knows nothing of what one before it accepted.
    let is_selected = owner.kind == MemberKind::Node;
    if is_selected && own.is_some_and(|own| snapshot.accepted_spec(own).is_none()) {
        return None;
    }
    match fabric_of(snapshot, owner) {
        Belongs::Unclear(_) => None,
        Belongs::To(of_owner, _) if of_owner.name == fabric => None,
        _ => Some(own.map_or(Gone::NoFabric, |_| Gone::Outside)),
    }
}

fn may_have_underlay(host: &ExternalHostSpec, member: &MemberSpec) -> bool {
    member.underlay().all(|address| host.underlay_cidrs.iter().any(|network| network.contains(address)))
}
