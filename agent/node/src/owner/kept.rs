//! Policies whose backends are not known yet, of which an earlier agent may have left entries in the kernel.
//!
//! Absence needs proof: until the complete list of such a policy is there, the kernel keeps what it has of it. That holds
//! only for what an earlier agent left. What this agent has seen coming waits without ever having had an entry.

use std::collections::{BTreeMap, BTreeSet};

use balancing_core::{
    objects::PolicyRef,
    plan,
    resolve::{Engine, Standing},
};
use balancing_dataplane::model::{Entry, FrontendKey, PolicyKind};

/// Policies whose entries stay as they are.
#[derive(Debug, Default)]
pub(super) struct Kept {
    policies: BTreeMap<PolicyRef, Marks>,
    /// Their service ids.
    ids: BTreeSet<u32>,
}

/// How to tell a policy and its entries from others.
#[derive(Debug, PartialEq, Eq)]
struct Marks {
    /// `metadata.uid`
    uid: String,
    service_id: u32,
}

impl Kept {
    /// Starts with all policies that wait at the moment when everything has been listed.
    pub(super) fn start(engine: &Engine) -> Self {
        let all = engine.verdicts().keys();
        let policies: BTreeMap<_, _> =
            all.filter_map(|policy| Some((policy.clone(), marks(engine, policy)?))).collect();
        let ids = policies.values().map(|marks| marks.service_id).collect();
        Self { policies, ids }
    }

    /// Lets go of the policies that are decided by now, or gone; their frontends among the entries of the kernel.
    pub(super) fn release(
        &mut self,
        engine: &Engine,
        entries: &BTreeMap<FrontendKey, Entry>,
    ) -> Vec<FrontendKey> {
        let decided =
            self.policies.extract_if(.., |policy, kept| marks(engine, policy).as_ref() != Some(kept));
        let decided: BTreeSet<u32> = decided.map(|(_, marks)| marks.service_id).collect();
        if decided.is_empty() {
            return Vec::new();
        }
        self.ids.retain(|id| !decided.contains(id));
        let concerns = |entry: &Entry| entry.layers.iter().any(|layer| decided.contains(&layer.service_id));
        entries.iter().filter(|(_, entry)| concerns(entry)).map(|(key, _)| *key).collect()
    }

    /// The entry to program where `decided` was decided and the kernel has `current`. Only BalancingPolicies wait for
    /// slices, so a layer that stays takes the place of the second kind.
    pub(super) fn desired(&self, decided: Option<&plan::Entry>, current: Option<&Entry>) -> Option<Entry> {
        let staying = current
            .filter(|_| !self.ids.is_empty())
            .and_then(|entry| entry.layers.iter().find(|layer| self.ids.contains(&layer.service_id)));
        let Some(staying) = staying else { return decided.map(|entry| entry.to_model().normalized()) };
        let first = decided.into_iter().flat_map(|entry| &entry.layers);
        let first = first.filter(|layer| layer.policy.kind == PolicyKind::LocalRedirect);
        let layers = first.map(|layer| layer.to_model()).chain([staying.clone()]).collect();
        Some(Entry { layers }.normalized())
    }
}

/// `None` = the policy does not wait for its first slices.
fn marks(engine: &Engine, policy: &PolicyRef) -> Option<Marks> {
    let resolution = engine.resolution(policy).filter(|r| r.standing == Standing::Pending)?;
    let uid = engine.snapshot().policy(policy)?.uid.clone();
    Some(Marks { uid, service_id: resolution.service_id })
}

#[cfg(test)]
mod tests;
