//! What the `status` of fabrics, members and hosts outside the cluster says.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Known, overlap::overlap};
use crate::source::Kind;
use balancing_core::{
    claims::capacity,
    objects::{ExternalHost, FabricSpec, InvalidSpec, MemberKind, TunnelFabric, TunnelNode},
    snapshot::Snapshot,
};

/// Our conditions, in the order in which they are written.
const CONDITIONS: [&str; 4] = ["Accepted", "Exhausted", "Conflicted", "Joined"];
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
    /// It is not told to somebody who has no status yet.
    only_as_change: bool,
}

/// Type, status, reason and message of a condition.
type Said = (&'static str, bool, &'static str, String);

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
        if self.only_as_change && current.is_none_or(|current| current.conditions.is_empty()) {
            return None;
        }
        let conditions = self.conditions.into_iter();
        let mut status = self.status;
        status.conditions =
            conditions.map(|said| condition(said, status.observed_generation, current, now)).collect();
        if let Some((old, new)) = current.and_then(|current| current.last_renewal).zip(status.last_renewal)
            && (0..COARSE).contains(&(new.as_second() - old.as_second()))
        {
            status.last_renewal = Some(old);
        }
        (current != Some(&status)).then_some(status)
    }
}

fn condition(
    (name, is_true, reason, message): Said,
    observed_generation: Option<i64>,
    current: Option<&Status>,
    now: Timestamp,
) -> Condition {
    let status = if is_true { "True" } else { "False" };
    let before = current.and_then(|current| current.conditions.iter().find(|it| it.type_ == name));
    let before = before.filter(|before| before.status == status);
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

/// Kind, name and uid of every object, and what its status shall say.
pub(super) fn wanted(known: &Known<'_>) -> Vec<(Kind, String, String, Wanted)> {
    let in_force = in_force(known.snapshot);
    let fabrics = known.snapshot.fabrics().map(|fabric| {
        let wanted = of_fabric(known, fabric, in_force);
        (Kind::TunnelFabric, fabric.name.clone(), fabric.uid.clone(), wanted)
    });
    let owners = first_with_each_address(known);
    let members = known.snapshot.members().map(|member| {
        (Kind::TunnelNode, member.name.clone(), member.uid.clone(), of_member(member, &owners))
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

fn of_fabric(known: &Known<'_>, fabric: &TunnelFabric, in_force: Option<&TunnelFabric>) -> Wanted {
    let members = known.snapshot.members().filter_map(|member| member.spec.as_ref().ok());
    let claims = known.snapshot.claims().filter_map(|claim| claim.spec.as_ref().ok());
    let count = |n: usize| u64::try_from(n).ok();
    let status = Status {
        observed_generation: Some(fabric.generation),
        members: count(members.filter(|spec| spec.fabric == fabric.name).count()),
        claims: count(claims.filter(|spec| spec.fabric == fabric.name).count()),
        ..Status::default()
    };
    let accepted = match &fabric.spec {
        Err(invalid) => (false, "InvalidSpec", problems(invalid)),
        Ok(_) if in_force.is_some_and(|first| first.name != fabric.name) => {
            let first = in_force.map(|first| first.name.as_str()).unwrap_or_default();
            (false, "NotInForce", format!("the older TunnelFabric {first} is in force; delete one of them"))
        }
        Ok(spec) => match overlap(spec, known.snapshot) {
            Some(message) => (false, "PoolOverlaps", message),
            None => (
                true,
                "Accepted",
                "the spec keeps all rules, and the pools overlap nothing of the cluster".to_owned(),
            ),
        },
    };
    let exhausted = match fabric.spec.as_ref().ok().and_then(|spec| exhausted(known, spec)) {
        Some(message) => (true, "PoolExhausted", message),
        None => (false, "AddressesLeft", "every pool has addresses that nobody claims".to_owned()),
    };
    let said = |name, (is_true, reason, message)| (name, is_true, reason, message);
    Wanted {
        status,
        conditions: vec![said("Accepted", accepted), said("Exhausted", exhausted)],
        only_as_change: false,
    }
}

fn problems(invalid: &InvalidSpec) -> String {
    let problems = invalid.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message));
    problems.collect::<Vec<_>>().join("; ")
}

fn exhausted(known: &Known<'_>, spec: &FabricSpec) -> Option<String> {
    spec.pools().find_map(|pool| {
        let claims = known.snapshot.claims().filter_map(|claim| claim.spec.as_ref().ok());
        let taken = claims.filter(|claim| pool.contains(claim.address)).count() as u128;
        (taken >= capacity(pool)).then(|| {
            format!("all {taken} addresses of the pool {pool} are claimed; members that come later get none")
        })
    })
}

type Owners<'a> = BTreeMap<IpAddr, &'a TunnelNode>;

fn first_with_each_address<'a>(known: &Known<'a>) -> Owners<'a> {
    let mut first = Owners::new();
    for member in known.snapshot.members() {
        for address in member.spec.iter().flat_map(|spec| &spec.addresses) {
            let known = first.entry(*address).or_insert(member);
            if age(member) < age(known) {
                *known = member;
            }
        }
    }
    first
}

fn age(member: &TunnelNode) -> (i64, &str) {
    (member.created.unwrap_or(i64::MAX), &member.name)
}

/// Members are many and hardly ever in conflict: none is told that it is not, unless it has been told that it is.
fn of_member(member: &TunnelNode, owners: &Owners<'_>) -> Wanted {
    let addresses = member.spec.iter().flat_map(|spec| &spec.addresses);
    let lost = addresses.filter_map(|address| Some((address, owners.get(address)?)));
    let lost = lost.filter(|(_, owner)| owner.name != member.name).map(|(address, owner)| {
        format!(
            "{address} is an address of the older TunnelNode {}, too; its agent claims another one",
            owner.name
        )
    });
    let lost: Vec<String> = lost.collect();
    let said = if lost.is_empty() {
        ("Conflicted", false, "NoConflict", "no older TunnelNode has one of its addresses".to_owned())
    } else {
        ("Conflicted", true, "DuplicateAddress", lost.join("; "))
    };
    Wanted { only_as_change: !said.1, status: Status::default(), conditions: vec![said] }
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
    Wanted { status, conditions: vec![("Joined", joined, reason, message)], only_as_change: false }
}
