//! What the `status` of a policy says.
//!
//! It is pure: a verdict and the present status in, the new status out, or nothing when it says the same already.
//! Of a foreign `status` it looks at what is ours alone.
//!
//! - `Accepted`: the spec keeps the rules. `False`: `InvalidSpec`, the message lists every broken rule.
//! - `ResolvedRefs`: Service and ports exist and pair. `Unknown` for a policy that claims nothing (`InvalidSpec`,
//!   `Disabled`, `NotSelected`, `Pending`), because its references are not looked at then.
//! - `Conflicted`: a policy that comes first has some of its frontends, its service id or its proxy port.
//! - `Programmed`: it leads at least one frontend to a backend. Whether a node could put that into force is told by Events and
//!   metrics of that node.

use balancing_abi::model::{self, PolicyKind};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{Protocol, ProxyPort};
use balancing_core::{
    objects::{BackendSpec, Policy, Port, RedirectMode},
    plan::{Reason, Verdict},
};

/// Longest message of a condition in characters (Kubernetes, `Condition` of `meta/v1`).
const MESSAGE: usize = 32_768;

const ACCEPTED: &str = "Accepted";
const RESOLVED_REFS: &str = "ResolvedRefs";
const CONFLICTED: &str = "Conflicted";
const PROGRAMMED: &str = "Programmed";

/// `status` of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) frontends: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) backends: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) proxy_ports: Vec<ProxyPort>,
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
}

/// How soon a status has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A condition says something else, the spec changed, or there is no status.
    Now,
    /// Numbers, words and `Programmed`, which follow the pods.
    Soon,
}

impl Status {
    /// Our part of a status; `None` when there is none, or one that no version of ours wrote.
    pub(super) fn read(status: Option<&Value>) -> Option<Self> {
        let mut status = Self::deserialize(status?).ok()?;
        let ours = [ACCEPTED, RESOLVED_REFS, CONFLICTED, PROGRAMMED];
        status.conditions.retain(|condition| ours.contains(&condition.type_.as_str()));
        let rank = |condition: &Condition| ours.iter().position(|name| *name == condition.type_);
        status.conditions.sort_by_key(rank);
        Some(status)
    }

    /// Whether both say the same, whenever it came about.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let timeless = |status: &Self| {
            let mut status = status.clone();
            for condition in &mut status.conditions {
                condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
            }
            status
        };
        timeless(self) == timeless(other)
    }

    /// How soon the step from `current` to this one has to be written.
    pub(super) fn urgency(&self, current: Option<&Self>) -> Urgency {
        let Some(current) = current else { return Urgency::Now };
        if current.observed_generation != self.observed_generation || current.proxy_ports != self.proxy_ports
        {
            return Urgency::Now;
        }
        let differs = |name: &&str| self.condition(name) != current.condition(name);
        if [ACCEPTED, RESOLVED_REFS, CONFLICTED].iter().any(differs) { Urgency::Now } else { Urgency::Soon }
    }

    fn condition(&self, name: &str) -> Option<&str> {
        self.conditions.iter().find(|condition| condition.type_ == name).map(|c| c.status.as_str())
    }
}

/// The status to write; `None` = the present one says the same, or was written by somebody who has seen a newer
/// generation. `generation` is the one the API server has, `ports` are those that are given to it.
pub(super) fn next(
    policy: &Policy,
    verdict: &Verdict,
    current: Option<&Status>,
    generation: i64,
    ports: &[Port],
    now: Timestamp,
) -> Option<Status> {
    let observed = current.and_then(|status| status.observed_generation);
    if observed.is_some_and(|observed| observed > verdict.generation && observed <= generation) {
        return None;
    }
    let count = |n: usize| u64::try_from(n).ok();
    let mut status = Status {
        observed_generation: Some(verdict.generation),
        service_id: Some(verdict.service_id),
        frontends: count(verdict.frontends.len()),
        backends: count(verdict.backends),
        mode: mode(policy).map(str::to_owned),
        proxy_ports: ports.iter().map(proxy_port).collect(),
        conditions: conditions(verdict, now),
    };
    for condition in &mut status.conditions {
        let before = current.and_then(|c| c.conditions.iter().find(|old| old.type_ == condition.type_));
        if let Some(before) = before.filter(|before| before.status == condition.status) {
            condition.last_transition_time = before.last_transition_time.clone();
        }
    }
    (current != Some(&status)).then_some(status)
}

fn proxy_port(port: &Port) -> ProxyPort {
    let protocol = match port.protocol {
        model::Protocol::Tcp => Protocol::Tcp,
        model::Protocol::Udp => Protocol::Udp,
    };
    ProxyPort { name: port.name.clone(), protocol, port: port.port.into() }
}

fn mode(policy: &Policy) -> Option<&'static str> {
    if policy.id.kind == PolicyKind::LocalRedirect {
        return Some("LocalRedirect");
    }
    match &policy.spec.as_ref().ok()?.backend {
        BackendSpec::LocalPods(_) => None,
        BackendSpec::Pods { mode: RedirectMode::PodEndpoint, .. } => Some("podEndpoint"),
        BackendSpec::Pods { mode: RedirectMode::HostPort, .. } => Some("hostPort"),
        BackendSpec::Pods { mode: RedirectMode::NodeProxy, .. } => Some("nodeProxy"),
        BackendSpec::Addresses { .. } => Some("addresses"),
    }
}

fn conditions(verdict: &Verdict, now: Timestamp) -> Vec<Condition> {
    let conditions = [
        (ACCEPTED, accepted(verdict)),
        (RESOLVED_REFS, resolved_refs(verdict)),
        (CONFLICTED, conflicted(verdict)),
        (PROGRAMMED, programmed(verdict)),
    ];
    let condition = |(name, (status, reason, message)): (&str, (&str, &str, String))| Condition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: shorten(message),
        observed_generation: Some(verdict.generation),
        last_transition_time: Time(seconds(now)),
    };
    conditions.into_iter().map(condition).collect()
}

fn accepted(verdict: &Verdict) -> (&'static str, &'static str, String) {
    if verdict.accepted {
        ("True", "Accepted", "the spec keeps all rules".to_owned())
    } else {
        ("False", Reason::InvalidSpec.as_str(), verdict.message.clone())
    }
}

fn resolved_refs(verdict: &Verdict) -> (&'static str, &'static str, String) {
    let reason = verdict.reason.as_str();
    match verdict.reason {
        // One that waits may go on with what it was before.
        Reason::InvalidSpec | Reason::Disabled | Reason::NotSelected | Reason::Pending
            if !verdict.takes_part =>
        {
            ("Unknown", reason, "the policy claims nothing, so its references are not looked at".to_owned())
        }
        _ if !verdict.resolved_refs => ("False", reason, verdict.message.clone()),
        _ => {
            let known = "Service and ports of the policy are known and pair".to_owned();
            let message: Vec<String> =
                [known].into_iter().chain(verdict.left_alone.iter().cloned()).collect();
            ("True", RESOLVED_REFS, message.join("; "))
        }
    }
}

fn conflicted(verdict: &Verdict) -> (&'static str, &'static str, String) {
    if verdict.conflicts_with.is_empty() {
        let message = "no policy that comes first has its service id, one of its frontends or its proxy port on the same node";
        return ("False", "NoConflict", message.to_owned());
    }
    // It names the winners, and what they won.
    ("True", CONFLICTED, verdict.message.clone())
}

fn programmed(verdict: &Verdict) -> (&'static str, &'static str, String) {
    let message = verdict.message.clone();
    match verdict.reason {
        _ if verdict.accepted && verdict.redirects => ("True", PROGRAMMED, message),
        Reason::Applied => ("False", "NoBackends", message),
        reason => ("False", reason.as_str(), message),
    }
}

/// Times in a status are whole seconds (Kubernetes, `Time` of `meta/v1`).
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn shorten(message: String) -> String {
    const MORE: &str = " ...";
    if message.chars().count() <= MESSAGE {
        return message;
    }
    message.chars().take(MESSAGE - MORE.len()).chain(MORE.chars()).collect()
}

#[cfg(test)]
mod tests;
