//! What members of a fabric left behind: TunnelNodes and TunnelAddressClaims that nobody owns any more.
//!
//! An owner is a Node or ExternalHost with the uid that the object names; another one of the same name inherits nothing. A
//! claim is kept for a while, so that a member that is made anew does not meet its own address in other hands.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Known;
use crate::source::Kind;
use balancing_core::objects::{ExternalHostSpec, MemberKind, MemberSpec, Owner};

/// How long an address stays taken without an owner.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// The same of a TunnelNode: objects of different kinds are not heard of in the order in which they were made.
const GRACE_OF_MEMBER: Duration = Duration::from_secs(2);
/// Seconds of silence after which a host outside the cluster has left.
const SILENCE: i64 = 24 * 60 * 60;

/// An object that nobody owns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cluster) struct Remains {
    /// TunnelNode or TunnelAddressClaim.
    pub(in crate::cluster) kind: Kind,
    pub(in crate::cluster) name: String,
    pub(in crate::cluster) uid: String,
    /// Whom it names.
    pub(in crate::cluster) owner: Owner,
    /// Why it may go.
    pub(in crate::cluster) why: Gone,
}

/// Why something has no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cluster) enum Gone {
    /// There is none with this uid. Before something is deleted because of that the API server is asked.
    Owner,
    /// The host is paused.
    Paused,
    /// The host may not have this underlay address.
    Underlay,
    /// The host has not been heard of for a day.
    Silent,
    /// The TunnelNode of the owner does not have the address.
    Unused,
}

/// Objects without an owner, and since when that is known.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Orphans {
    since: BTreeMap<(Kind, String, String), Instant>,
    asked: Option<Instant>,
}

impl Gone {
    /// In words.
    pub(in crate::cluster) fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "its owner is gone",
            Self::Paused => "its ExternalHost is paused",
            Self::Underlay => "its underlay address is not of its ExternalHost's networks",
            Self::Silent => "its host has not renewed its Lease for a day",
            Self::Unused => "the TunnelNode of its owner does not have the address",
        }
    }
}

impl Orphans {
    /// Takes in what has no owner now; what has had none for long enough. Whatever has an owner again begins anew.
    pub(super) fn due(&mut self, remains: Vec<Remains>, now: Instant) -> Vec<Remains> {
        let key = |it: &Remains| (it.kind, it.name.clone(), it.uid.clone());
        let since = remains.iter().map(|it| {
            let key = key(it);
            let since = self.since.get(&key).copied().unwrap_or(now);
            (key, since)
        });
        self.since = since.collect();
        self.asked = Some(now);
        let is_due = |it: &Remains| {
            self.since.get(&key(it)).is_some_and(|since| now.duration_since(*since) >= grace(it.kind))
        };
        remains.into_iter().filter(is_due).collect()
    }

    /// When something becomes due that was not when this was asked last.
    pub(in crate::cluster) fn next_due(&self) -> Option<Instant> {
        let ends = self.since.iter().map(|((kind, ..), since)| *since + grace(*kind));
        ends.filter(|end| self.asked.is_none_or(|asked| *end > asked)).min()
    }
}

fn grace(kind: Kind) -> Duration {
    if kind == Kind::TunnelNode { GRACE_OF_MEMBER } else { GRACE }
}

/// Everything that has no owner now.
pub(super) fn remains(known: &Known<'_>) -> Vec<Remains> {
    let members = known.snapshot.members().filter_map(|member| {
        let spec = member.spec.as_ref().ok()?;
        let why = member_is_gone(known, spec)?;
        Some(Remains {
            kind: Kind::TunnelNode,
            name: member.name.clone(),
            uid: member.uid.clone(),
            owner: spec.owner(),
            why,
        })
    });
    let claims = known.snapshot.claims().filter_map(|claim| {
        let spec = claim.spec.as_ref().ok()?;
        let unused = || {
            let member = known.snapshot.member(&spec.owner.kind.object_name(&spec.owner.name))?;
            let member = member.spec.as_ref().ok().filter(|member| member.uid == spec.owner.uid)?;
            (!member.addresses.contains(&spec.address)).then_some(Gone::Unused)
        };
        let why = owner_is_gone(known, &spec.owner).or_else(unused)?;
        Some(Remains {
            kind: Kind::TunnelAddressClaim,
            name: claim.name.clone(),
            uid: claim.uid.clone(),
            owner: spec.owner.clone(),
            why,
        })
    });
    members.chain(claims).collect()
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
    let silence = lease.map(|lease| known.now.as_second() - lease.renewed.as_second());
    silence.is_some_and(|seconds| seconds > SILENCE).then_some(Gone::Silent)
}

fn member_is_gone(known: &Known<'_>, member: &MemberSpec) -> Option<Gone> {
    let gone = owner_is_gone(known, &member.owner());
    if gone.is_some() || member.kind == MemberKind::Node {
        return gone;
    }
    let host = known.snapshot.external_host(&member.name)?.spec.as_ref().ok()?;
    if host.paused {
        return Some(Gone::Paused);
    }
    (!may_have_underlay(host, member)).then_some(Gone::Underlay)
}

fn may_have_underlay(host: &ExternalHostSpec, member: &MemberSpec) -> bool {
    member.underlay().all(|address| host.underlay_cidrs.iter().any(|network| network.contains(address)))
}
