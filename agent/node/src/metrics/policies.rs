//! What became of the policies, and what happened to connections that they concern.

use std::{collections::BTreeMap, fmt};

use balancing_dataplane::tables::Counters;

use super::Out;
use balancing_core::failure::FailureReason;
use balancing_core::objects::PolicyRef;

/// What happened to the connections of each policy since the agent started. Numbers only grow as long as the policy
/// is known.
pub type Traffic = Vec<(PolicyRef, Counters)>;

/// The policies at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySample {
    /// Number of policies by Kubernetes kind and by the reason that `balancingctl policies` tells.
    pub reasons: BTreeMap<(&'static str, &'static str), usize>,
    /// Policies that cannot be programmed on this node.
    pub failed: Vec<(PolicyRef, FailureReason)>,
    /// Policies with a frontend here, or that have had one.
    pub traffic: Traffic,
}

impl PolicySample {
    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let reasons = self
            .reasons
            .iter()
            .map(|((kind, reason), count)| ([("kind", *kind), ("reason", *reason)], *count));
        out.values("policies", "Policies by what became of them", reasons)?;
        let failed = self.failed.iter().map(|(policy, reason)| {
            let labels =
                [("kind", policy.kind.kind()), ("name", policy.name.as_str()), ("reason", reason.as_str())];
            (labels, 1u64)
        });
        out.values("policy_failed", "Policies that cannot be programmed on this node", failed)?;
        out.counts("redirected", "Connections and datagrams sent to a backend", self.by(|c| c.redirected))?;
        out.counts("qos_overflow", "Not redirected: the QoS limit was reached", self.by(|c| c.qos_overflow))?;
        out.counts("no_backend", "Not redirected: no backend took them", self.by(|c| c.no_backend))?;
        out.counts("skipped", "Not redirected: the client is exempt", self.by(|c| c.skipped))
    }

    fn by(&self, count: fn(&Counters) -> u64) -> impl Iterator<Item = ([(&str, &str); 2], u64)> {
        self.traffic.iter().map(move |(policy, counters)| {
            ([("kind", policy.kind.kind()), ("name", policy.name.as_str())], count(counters))
        })
    }
}
