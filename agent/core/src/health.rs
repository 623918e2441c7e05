//! Policies that failed on this node, and whether they still do. Level-triggered: what is true now, not what happened.

use std::collections::BTreeMap;

use balancing_abi::model::FrontendKey;

use crate::{
    failure::{Failure, FailureReason},
    objects::PolicyRef,
    resolve::Engine,
};

/// Policies that could not be programmed since the agent started and still have something to program.
pub type Health = BTreeMap<PolicyRef, PolicyHealth>;

/// How a policy that failed is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyHealth {
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// Frontends that the policy decides.
    pub frontends: usize,
    /// What is wrong now; `None` = everything is programmed again.
    pub problem: Option<Problem>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Frontends that are not programmed.
    pub failed: usize,
    /// Why the first of them is not.
    pub reason: FailureReason,
    /// The same in one line, with the frontend and the remedy.
    pub message: String,
}

/// Looks at everything that failed; `before` tells who has to hear that it is over.
#[must_use]
pub fn health(engine: &Engine, failures: &BTreeMap<FrontendKey, Failure>, before: &Health) -> Health {
    let mut problems = BTreeMap::<PolicyRef, Problem>::new();
    for (key, failure) in failures {
        let Some(entry) = engine.entry(key) else { continue };
        for layer in &entry.layers {
            let problem = problems.entry(layer.policy.clone()).or_insert_with(|| Problem {
                failed: 0,
                reason: failure.reason,
                message: failure.message.clone(),
            });
            problem.failed += 1;
        }
    }
    let over = before.keys().filter(|policy| !problems.contains_key(*policy)).cloned().collect::<Vec<_>>();
    let known = problems.into_iter().map(|(policy, problem)| (policy, Some(problem)));
    known
        .chain(over.into_iter().map(|policy| (policy, None)))
        .filter_map(|(policy, problem)| {
            let uid = engine.snapshot().policy(&policy)?.uid.clone();
            let frontends = engine.verdicts().get(&policy)?.frontends.len();
            // A policy with nothing to program has nothing that works again.
            (frontends > 0).then_some((policy, PolicyHealth { uid, frontends, problem }))
        })
        .collect()
}
