//! The one owner of the data plane: takes batches of objects, keeps the tables as the policies want them.
//!
//! Level-triggered: a frontend that could not be programmed stays pending and is tried again. Nothing is
//! deleted before the source has delivered its complete list.

use std::collections::{BTreeMap, BTreeSet};

use balancing_dataplane::{
    model::{ClientId, Entry, FrontendKey, PolicyName},
    tables::{TableError, Tables},
};

use crate::{
    diff::{Op, diff},
    objects::PolicyRef,
    plan::Verdict,
    resolve::{Engine, Settings},
    source::{Batch, Change},
    view::PolicyView,
};

/// Frontends whose failure is told word by word.
const PROBLEMS: usize = 3;

/// Decisions and tables of this host.
pub struct Owner {
    engine: Engine,
    tables: Tables,
    /// Frontends whose table entry may differ from the decision.
    pending: BTreeSet<FrontendKey>,
    /// Why a pending frontend is still pending.
    failures: BTreeMap<FrontendKey, String>,
    synced: bool,
    /// Names that an earlier agent left for policies that are gone have been removed.
    names_swept: bool,
}

impl Owner {
    /// An owner of tables that an earlier agent may have filled.
    #[must_use]
    pub fn new(settings: Settings, tables: Tables) -> Self {
        Self {
            engine: Engine::new(settings),
            tables,
            pending: BTreeSet::new(),
            failures: BTreeMap::new(),
            synced: false,
            names_swept: false,
        }
    }

    /// The decisions.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether the source's complete list has arrived.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Frontends that could not be programmed, and why.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<FrontendKey, String> {
        &self.failures
    }

    /// What could not be programmed, in a few lines.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.failures.values().take(PROBLEMS).cloned().collect();
        let more = self.failures.len() - lines.len();
        if more > 0 {
            lines.push(format!("{more} more frontends are not programmed"));
        }
        lines
    }

    /// Takes in a batch; [`Self::program`] puts it into force.
    pub fn apply(&mut self, batch: Batch) {
        self.engine.apply(batch.changes.into_iter().map(|change| match change {
            Change::Upsert(object) => (object.key(), Some(object)),
            Change::Delete(key) => (key, None),
        }));
        if batch.synced && !self.synced {
            self.synced = true;
            // Whatever an earlier agent left that nobody wants any more goes now.
            self.pending.extend(self.tables.entries().keys());
        }
    }

    /// Tells by what a local pod's connections are recognised.
    pub fn set_identities(&mut self, uid: &str, ids: BTreeSet<ClientId>) {
        self.engine.set_identities(uid, ids);
    }

    /// Clients that are never redirected.
    ///
    /// # Errors
    /// A refused table operation.
    pub fn set_exempt(&mut self, clients: &BTreeSet<ClientId>) -> Result<(), TableError> {
        self.tables.set_exempt(clients)
    }

    /// Resolves what changed and programs what is pending. `true` when nothing is left to do.
    pub fn program(&mut self) -> bool {
        let delta = self.engine.resolve();
        self.pending.extend(delta.entries.keys());
        self.name_policies(&delta.verdicts);
        if self.synced && !self.names_swept {
            self.names_swept = true;
            self.sweep_names();
        }
        for (policy, verdict) in &delta.verdicts {
            log_verdict(policy, verdict.as_ref());
        }
        let desired: BTreeMap<FrontendKey, Option<Entry>> =
            self.pending.iter().map(|key| (*key, self.desired(key))).collect();
        let ops = diff(&desired, self.tables.entries(), self.synced);
        let mut done = desired;
        let mut failed = BTreeMap::new();
        for op in &ops {
            let (key, result) = match op {
                Op::Publish(key, entry) => (key, self.tables.publish(*key, entry)),
                Op::Remove(key) => (key, self.tables.remove(key)),
            };
            match result {
                Ok(()) => tracing::debug!(frontend = %key, "programmed"),
                Err(error) => {
                    done.remove(key);
                    failed.insert(*key, error.to_string());
                }
            }
        }
        self.fail(failed);
        for key in done.keys() {
            // Without the complete list an unwanted entry stays, and stays pending.
            let kept = !self.synced && done[key].is_none() && self.tables.entries().contains_key(key);
            if !kept {
                self.pending.remove(key);
                self.failures.remove(key);
            }
        }
        self.pending.is_empty() || !self.synced
    }

    fn desired(&self, key: &FrontendKey) -> Option<Entry> {
        self.engine.entry(key).map(|entry| entry.to_model().normalized())
    }

    /// Remembers failures. Thousands of frontends may fail for one reason: that is one line.
    fn fail(&mut self, failed: BTreeMap<FrontendKey, String>) {
        let new = failed.iter().filter(|(key, message)| self.failures.get(key) != Some(message));
        let mut new = new.map(|(_, message)| message);
        if let Some(first) = new.next() {
            let more = new.count();
            tracing::error!(more, "{first}");
        }
        self.failures.extend(failed);
    }

    /// Keeps the names that commands show while no agent runs. Nothing depends on them, so a failure is only told.
    fn name_policies(&mut self, verdicts: &BTreeMap<PolicyRef, Option<Verdict>>) {
        let current: BTreeSet<u32> = verdicts.values().flatten().map(|v| v.service_id).collect();
        for (policy, verdict) in verdicts {
            let name = PolicyName { kind: policy.kind, name: policy.name.clone() };
            let result = match verdict {
                Some(verdict) => self.tables.set_policy(verdict.service_id, Some(&name)),
                None => self
                    .tables
                    .policies()
                    .iter()
                    .find(|(id, known)| **known == name && !current.contains(id))
                    .map(|(id, _)| *id)
                    .map_or(Ok(()), |id| self.tables.set_policy(id, None)),
            };
            if let Err(error) = result {
                tracing::warn!(policy = %policy.name, "{error}");
            }
        }
    }

    fn sweep_names(&mut self) {
        let current: BTreeSet<u32> = self.engine.verdicts().values().map(|v| v.service_id).collect();
        let stale: Vec<u32> =
            self.tables.policies().keys().filter(|id| !current.contains(id)).copied().collect();
        for id in stale {
            if let Err(error) = self.tables.set_policy(id, None) {
                tracing::warn!("{error}");
            }
        }
    }

    /// The rows of `policies`.
    #[must_use]
    pub fn policy_views(&self) -> Vec<PolicyView> {
        let verdicts = self.engine.verdicts().iter();
        verdicts.map(|(policy, verdict)| PolicyView::new(policy, verdict, &self.failures)).collect()
    }
}

fn log_verdict(policy: &PolicyRef, verdict: Option<&Verdict>) {
    let (kind, name) = (policy.kind.kind(), policy.name.as_str());
    match verdict {
        None => tracing::info!(kind, name, "policy is gone"),
        Some(v) if v.accepted && v.resolved_refs && v.conflicts_with.is_empty() => {
            tracing::info!(kind, name, frontends = v.frontends.len(), backends = v.backends, "{}", v.message);
        }
        Some(v) => tracing::warn!(kind, name, reason = v.reason.as_str(), "{}", v.message),
    }
}
