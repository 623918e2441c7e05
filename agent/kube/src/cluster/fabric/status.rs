//! What the `status` of fabrics, members and hosts outside the cluster says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Known, garbage::claims, overlap::overlap, pool::exhausted};
use crate::source::Kind;
use balancing_core::{
    membership::NodeAddresses,
    objects::{Acceptance, ClaimSpec, ExternalHost, InvalidSpec, MemberKind, TunnelFabric, TunnelNode},
    snapshot::Snapshot,
};

/// Our conditions, in the order in which they are written.
const CONDITIONS: [&str; 6] = ["Accepted", "Overlaps", "Exhausted", "Conflicted", "Claimed", "Joined"];
/// A pool overlaps a network of the cluster.
const OVERLAPS: &str = "PoolOverlaps";
/// Seconds that a clock outside the cluster may be wrong by.
const SKEW: i64 = 60;
/// Seconds for which the last renewal that is told may be out of date.
const COARSE: i64 = 600;

/// `status` of a TunnelFabric, TunnelNode or ExternalHost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cluster) struct Status {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    members: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claims: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel_node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_renewal: Option<Timestamp>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

/// What a status shall say.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    status: Status,
    conditions: Vec<Said>,
}

/// A condition.
#[derive(Debug)]
struct Said {
    name: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
    /// It is told only to somebody who was told the contrary.
    only_as_change: bool,
}

impl Status {
    /// Our part of a status; `None` when it is none that a version of ours wrote.
    pub(super) fn read(status: &Value) -> Option<Self> {
        let mut status = Self::deserialize(status).ok()?;
        let rank = |condition: &Condition| CONDITIONS.iter().position(|name| *name == condition.type_);
        status.conditions.retain(|condition| rank(condition).is_some());
        status.conditions.sort_by_key(rank);
        Some(status)
    }
}

impl Wanted {
    /// The status to write after the present one; `None` = that says the same.
    pub(super) fn after(self, current: Option<&Status>, now: Timestamp) -> Option<Status> {
        let before = current.map_or(&[][..], |current| &current.conditions);
        let is_told = |said: &Said| !said.only_as_change || before.iter().any(|it| it.type_ == said.name);
        let conditions: Vec<Said> = self.conditions.into_iter().filter(is_told).collect();
        if conditions.is_empty() && before.is_empty() {
            return None;
        }
        let mut status = self.status;
        let observed = status.observed_generation;
        status.conditions =
            conditions.into_iter().map(|said| condition(said, observed, before, now)).collect();
        if let Some((old, new)) = current.and_then(|current| current.last_renewal).zip(status.last_renewal)
            && (0..COARSE).contains(&(new.as_second() - old.as_second()))
        {
            status.last_renewal = Some(old);
        }
        (current != Some(&status)).then_some(status)
    }
}

fn condition(
    Said { name, is_true, reason, message, .. }: Said,
    observed_generation: Option<i64>,
    before: &[Condition],
    now: Timestamp,
) -> Condition {
    let status = if is_true { "True" } else { "False" };
    let before = before.iter().find(|it| it.type_ == name && it.status == status);
    // Times in a status are whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(32_768).collect(),
        observed_generation,
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

fn said(name: &'static str, (is_true, reason, message): (bool, &'static str, String)) -> Said {
    Said { name, is_true, reason, message, only_as_change: false }
}

/// Kind, name and uid of every object, and what its status shall say. `unclaimed`: TunnelNodes by uid that have an address without
/// a claim.
pub(super) fn wanted(known: &Known<'_>, unclaimed: &BTreeSet<String>) -> Vec<(Kind, String, String, Wanted)> {
    let fabrics = known.snapshot.fabrics().map(|fabric| {
        let wanted = of_fabric(known, fabric);
        (Kind::TunnelFabric, fabric.name.clone(), fabric.uid.clone(), wanted)
    });
    let claims = claims(known);
    let (owners, underlays) = (owners(known, &claims), underlays(known));
    let members = known.snapshot.members().map(|member| {
        let wanted = Wanted {
            status: Status::default(),
            conditions: vec![conflicted(member, &owners, &underlays), claimed(member, &claims, unclaimed)],
        };
        (Kind::TunnelNode, member.name.clone(), member.uid.clone(), wanted)
    });
    let hosts = known
        .snapshot
        .external_hosts()
        .map(|host| (Kind::ExternalHost, host.name.clone(), host.uid.clone(), of_host(known, host)));
    fabrics.chain(hosts).chain(members).collect()
}

/// The oldest valid fabric; of two of one second that with the smaller name.
pub(in crate::cluster) fn in_force(snapshot: &Snapshot) -> Option<&TunnelFabric> {
    let valid = snapshot.fabrics().filter(|fabric| fabric.spec.is_ok());
    valid.min_by_key(|fabric| (fabric.created.unwrap_or(i64::MAX), &fabric.name))
}

fn of_fabric(known: &Known<'_>, fabric: &TunnelFabric) -> Wanted {
    let members = known.snapshot.members().filter_map(|member| member.spec.as_ref().ok());
    let claims = known.snapshot.claims().filter_map(|claim| claim.spec.as_ref().ok());
    let count = |n: usize| u64::try_from(n).ok();
    let status = Status {
        observed_generation: Some(fabric.generation),
        members: count(members.filter(|spec| spec.fabric == fabric.name).count()),
        claims: count(claims.filter(|spec| spec.fabric == fabric.name).count()),
        ..Status::default()
    };
    // Members live by what is accepted: whoever gives a pod or a Node an address of the pool must not end that.
    let (refused, overlaps) = match refused(known, fabric) {
        Some((OVERLAPS, message)) if fabric.acceptance == Acceptance::Accepted => (None, Some(message)),
        refused => (refused, None),
    };
    let accepted = match refused {
        Some((reason, message)) => (false, reason, message),
        None => {
            let message = "the spec keeps all rules, and the pools overlapped nothing of the cluster";
            (true, "Accepted", message.to_owned())
        }
    };
    let overlaps = match overlaps {
        Some(message) => said("Overlaps", (true, OVERLAPS, message)),
        None => {
            let message = "the pools overlap nothing that has come since".to_owned();
            Said { only_as_change: true, ..said("Overlaps", (false, "NoOverlap", message)) }
        }
    };
    let exhausted = match fabric.spec.as_ref().ok().and_then(|spec| exhausted(known, spec)) {
        Some(message) => (true, "PoolExhausted", message),
        None => (false, "AddressesLeft", "every pool has addresses that nobody claims".to_owned()),
    };
    Wanted { status, conditions: vec![said("Accepted", accepted), overlaps, said("Exhausted", exhausted)] }
}

/// Why a fabric is not accepted, as reason and message; what overlaps is told of one that is accepted, too.
pub(super) fn refused(known: &Known<'_>, fabric: &TunnelFabric) -> Option<(&'static str, String)> {
    let spec = match &fabric.spec {
        Err(invalid) => return Some(("InvalidSpec", problems(invalid))),
        Ok(spec) => spec,
    };
    if let Some(first) = in_force(known.snapshot).filter(|first| first.name != fabric.name) {
        let message = format!("the older TunnelFabric {} is in force; delete one of them", first.name);
        return Some(("NotInForce", message));
    }
    overlap(spec, known.snapshot).map(|message| (OVERLAPS, message))
}

fn problems(invalid: &InvalidSpec) -> String {
    let problems = invalid.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message));
    problems.collect::<Vec<_>>().join("; ")
}

type Owners<'a> = BTreeMap<IpAddr, &'a TunnelNode>;
type Claims<'a> = BTreeMap<IpAddr, &'a ClaimSpec>;

/// Whose each address is: his who has claimed it, of several without a claim the oldest one's.
fn owners<'a>(known: &Known<'a>, claims: &Claims<'_>) -> Owners<'a> {
    let mut owners = Owners::new();
    for member in known.snapshot.members() {
        for address in member.spec.iter().flat_map(|spec| &spec.addresses) {
            let known = owners.entry(*address).or_insert(member);
            if rank(member, *address, claims) < rank(known, *address, claims) {
                *known = member;
            }
        }
    }
    owners
}

fn rank<'a>(member: &'a TunnelNode, address: IpAddr, claims: &Claims<'_>) -> (bool, i64, &'a str) {
    let owner = member.spec.as_ref().ok().map(|spec| spec.owner());
    let has_claim = claims.get(&address).is_some_and(|claim| Some(&claim.owner) == owner.as_ref());
    (!has_claim, member.created.unwrap_or(i64::MAX), &member.name)
}

/// Whose each underlay address is for agents: the oldest one's. What the status of a Node has is that Node's, and no question.
fn underlays<'a>(known: &Known<'a>) -> Owners<'a> {
    let nodes = NodeAddresses::of(known.snapshot);
    let mut members: Vec<_> = known.snapshot.members().collect();
    members.sort_by_key(|member| (member.created.is_none(), member.created, &member.name));
    let mut owners = Owners::new();
    for member in members {
        for address in member.spec.iter().flat_map(|spec| spec.underlay()) {
            if !nodes.has(address) {
                owners.entry(address).or_insert(member);
            }
        }
    }
    owners
}

/// An underlay address of the member that an older one has.
fn same_underlay<'a>(member: &TunnelNode, underlays: &Owners<'a>) -> Option<(IpAddr, &'a TunnelNode)> {
    let spec = member.spec.as_ref().ok()?;
    let other = |address| Some((address, *underlays.get(&address)?));
    spec.underlay().filter_map(other).find(|(_, other)| other.name != member.name)
}

/// Members are many and hardly ever in conflict: none is told that it is not, unless it has been told that it is.
fn conflicted(member: &TunnelNode, owners: &Owners<'_>, underlays: &Owners<'_>) -> Said {
    let addresses = member.spec.iter().flat_map(|spec| &spec.addresses);
    let lost = addresses.filter_map(|address| Some((address, owners.get(address)?)));
    let lost = lost.filter(|(_, owner)| owner.name != member.name).map(|(address, owner)| {
        format!(
            "{address} belongs to TunnelNode {}, which has its claim or is older; this one's agent claims another",
            owner.name
        )
    });
    let lost: Vec<String> = lost.collect();
    if lost.is_empty()
        && let Some((address, other)) = same_underlay(member, underlays)
    {
        let message = format!(
            "underlay address {address} is also that of TunnelNode {}, which is older: members dial that one; which of the two hosts \
             has it must be looked at: stop the other's agent, give each ExternalHost underlayCIDRs of its own, and revoke a stolen token",
            other.name
        );
        return said("Conflicted", (true, "DuplicateUnderlay", message));
    }
    if lost.is_empty() {
        let message = "no other TunnelNode has a better right to one of its addresses".to_owned();
        return Said { only_as_change: true, ..said("Conflicted", (false, "NoConflict", message)) };
    }
    said("Conflicted", (true, "DuplicateAddress", lost.join("; ")))
}

/// TunnelNodes an address of which belongs to another one, by fabric.
pub(super) fn conflicted_members<'a>(known: &Known<'a>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let (owners, underlays) = (owners(known, &claims(known)), underlays(known));
    let mut found = BTreeMap::<&str, Vec<&str>>::new();
    for member in known.snapshot.members() {
        let Ok(spec) = &member.spec else { continue };
        let lost = |address| owners.get(address).is_some_and(|owner| owner.name != member.name);
        if spec.addresses.iter().any(lost) || same_underlay(member, &underlays).is_some() {
            found.entry(&spec.fabric).or_default().push(&member.name);
        }
    }
    found
}

/// The agent looks after its claims when it is told.
fn claimed(member: &TunnelNode, claims: &Claims<'_>, unclaimed: &BTreeSet<String>) -> Said {
    if !unclaimed.contains(&member.uid) {
        let message = "each of its addresses has a claim".to_owned();
        return Said { only_as_change: true, ..said("Claimed", (true, "Claimed", message)) };
    }
    let addresses = member.spec.iter().flat_map(|spec| &spec.addresses);
    let lacking: Vec<_> = addresses.filter(|it| !claims.contains_key(*it)).map(ToString::to_string).collect();
    let message = format!("there is no claim of {}; its agent makes it again", lacking.join(", "));
    said("Claimed", (false, "NoClaim", message))
}

/// TunnelNodes that have an address without a claim, by uid.
pub(super) fn unclaimed(known: &Known<'_>) -> BTreeSet<String> {
    let claims = claims(known);
    let lacks = |member: &&TunnelNode| {
        member.spec.iter().flat_map(|spec| &spec.addresses).any(|address| !claims.contains_key(address))
    };
    known.snapshot.members().filter(lacks).map(|member| member.uid.clone()).collect()
}

fn of_host(known: &Known<'_>, host: &ExternalHost) -> Wanted {
    let name = MemberKind::ExternalHost.object_name(&host.name);
    let member = known.snapshot.member(&name).and_then(|member| member.spec.as_ref().ok());
    let member = member.filter(|member| member.uid == host.uid);
    let lease = known.reading.leases.get(&name);
    let silent = lease
        .is_none_or(|lease| known.now.as_second() - lease.renewed.as_second() > lease.seconds.max(0) + SKEW);
    let (joined, reason, message) = match &host.spec {
        Err(invalid) => (false, "InvalidSpec", problems(invalid)),
        Ok(spec) if spec.paused => (false, "Paused", "spec.paused is true".to_owned()),
        Ok(spec) if !known.snapshot.fabrics().any(|fabric| fabric.name == spec.fabric) => (
            false,
            "NoFabric",
            format!("there is no TunnelFabric {}; make it or correct spec.fabric", spec.fabric),
        ),
        Ok(_) if member.is_none() => {
            (false, "NotJoined", format!("there is no TunnelNode {name}; start the agent on the host"))
        }
        Ok(_) if silent => {
            (false, "Silent", format!("the Lease {name} is not renewed; look at the agent on the host"))
        }
        Ok(_) => (true, "Joined", "the host is a member and renews its Lease".to_owned()),
    };
    let renewed = lease.map(|lease| lease.renewed.as_second());
    let status = Status {
        tunnel_node: member.map(|_| name),
        last_renewal: renewed.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        ..Status::default()
    };
    Wanted { status, conditions: vec![said("Joined", (joined, reason, message))] }
}
