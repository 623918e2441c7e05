//! The one owner of the data plane: takes batches of objects, keeps the tables as the policies want them.
//!
//! Level-triggered: a frontend that could not be programmed stays pending and is tried again. Nothing is
//! touched before the source has delivered its complete list: a policy whose pods are not listed yet looks exactly
//! like one that has none. Where the source lacks a kind, what needs it waits, and what an earlier agent left of it stays.

use std::collections::{BTreeMap, BTreeSet};

use balancing_dataplane::{
    model::{ClientId, Entry, FrontendKey},
    tables::{Counters, TableError, Tables},
};
use tokio::sync::watch;

use balancing_core::{
    diff::{Op, diff},
    failure::{Failure, FailureReason},
    health::{self, Health},
    kinds::Lacking,
    objects::PolicyRef,
    plan::Verdict,
    resolve::{Engine, Forwards, ProxyPort, Role, Settings},
    snapshot::Wait,
    source::{Batch, Change},
};

mod kept;
mod names;
mod report;
mod traffic;
mod views;

use kept::Kept;
use names::Names;
use traffic::Traffic;

/// Frontends whose failure is told word by word.
const PROBLEMS: usize = 3;

/// Decisions and tables of this host.
pub struct Owner {
    engine: Engine,
    tables: Tables,
    /// Frontends whose table entry may differ from the decision.
    pending: BTreeSet<FrontendKey>,
    /// Why a pending frontend is still pending.
    failures: BTreeMap<FrontendKey, Failure>,
    health: watch::Sender<Health>,
    operations: Operations,
    traffic: Traffic,
    /// What the proxy of this node forwards.
    forwards: Forwards,
    /// Ports whose forward may have changed since they were asked for last.
    changed_ports: BTreeSet<ProxyPort>,
    synced: bool,
    /// `None` until the first decisions.
    kept: Option<Kept>,
    names: Names,
}

/// Operations on frontends since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Made or changed.
    pub published: u64,
    /// Taken out.
    pub removed: u64,
    /// Failed, each attempt.
    pub failed: BTreeMap<FailureReason, u64>,
}

impl Owner {
    /// An owner of tables that an earlier agent may have filled.
    #[must_use]
    pub fn new(settings: Settings, tables: Tables, health: watch::Sender<Health>) -> Self {
        Self {
            engine: Engine::new(settings),
            tables,
            pending: BTreeSet::new(),
            failures: BTreeMap::new(),
            health,
            operations: Operations::default(),
            traffic: Traffic::default(),
            forwards: Forwards::default(),
            changed_ports: BTreeSet::new(),
            synced: false,
            kept: None,
            names: Names::default(),
        }
    }

    /// The decisions.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What the proxy of this node forwards, as of the last decisions.
    #[must_use]
    pub fn forwards(&self) -> &Forwards {
        &self.forwards
    }

    /// Ports of the proxy whose forward may have changed since the last call.
    pub fn take_changed_ports(&mut self) -> BTreeSet<ProxyPort> {
        std::mem::take(&mut self.changed_ports)
    }

    /// Whether the source's complete list has arrived, but for what is lacking.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The kinds that are not known completely.
    #[must_use]
    pub fn lacking(&self) -> &Lacking {
        self.engine.snapshot().lacking()
    }

    /// Whether a policy waits for its first slices, as of the last decisions.
    #[must_use]
    pub fn waits_for_slices(&self) -> bool {
        let snapshot = self.engine.snapshot();
        self.engine.verdicts().keys().any(|policy| matches!(snapshot.wait(policy), Some(Wait::First(_))))
    }

    /// Frontends that could not be programmed, and why.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<FrontendKey, Failure> {
        &self.failures
    }

    /// Policies that failed, now and whenever that changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Operations since the agent started.
    #[must_use]
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// The tables, to be looked at.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What happened to the connections of each policy, as the kernel has counted it.
    pub fn count(&mut self) -> &BTreeMap<PolicyRef, Counters> {
        self.tables.count();
        self.traffic.add(self.tables.take_counted());
        self.traffic.totals()
    }

    /// What could not be programmed, in a few lines.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.failures.values().take(PROBLEMS).map(|f| f.message.clone()).collect();
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
        self.engine.set_lacking(batch.lacking);
        if batch.synced && !self.synced {
            self.synced = true;
            // Whatever an earlier agent left that nobody wants any more goes now.
            self.pending.extend(self.tables.entries().keys());
        }
    }

    /// Tells which containers of a local pod were seen to end. Returns whether that concerns a pod as the objects have it.
    pub fn set_ended(&mut self, node_uid: &str, containers: BTreeSet<Box<str>>) -> bool {
        self.engine.set_ended(node_uid, containers)
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

    /// Switches the programs' events on or off.
    ///
    /// # Errors
    /// A refused table operation.
    pub fn set_events(&mut self, on: bool) -> Result<(), TableError> {
        self.tables.set_events(on)
    }

    /// The tables are filled: redirects again where a cleanup had ended it.
    pub fn resume(&mut self) {
        self.tables.resume();
    }

    /// Resolves what changed and programs what is pending, once the source's complete list has arrived. `true` when
    /// nothing is left to do.
    pub fn program(&mut self) -> bool {
        if !self.synced {
            return true;
        }
        let delta = self.engine.resolve();
        if self.engine.settings().role == Role::Node {
            self.changed_ports.extend(self.forwards.update(&self.engine, &delta.touched));
        }
        let kept = self
            .kept
            .get_or_insert_with(|| Kept::start(&self.engine, self.tables.entries(), self.tables.policies()));
        self.pending.extend(kept.release(&self.engine));
        self.pending.extend(delta.entries.keys());
        self.pass_ids(&delta.verdicts);
        self.names.keep(&mut self.tables, &delta.verdicts, &self.engine);
        report::log(&delta.verdicts);
        let mut done: BTreeMap<FrontendKey, Option<Entry>> =
            self.pending.iter().map(|key| (*key, self.desired(key))).collect();
        let failed = self.operate(&diff(&done, self.tables.entries()));
        done.retain(|key, _| !failed.contains_key(key));
        let mut changed = self.fail(failed);
        for key in done.keys() {
            self.pending.remove(key);
            changed |= self.failures.remove(key).is_some();
        }
        self.traffic.add(self.tables.take_counted());
        if changed || delta.verdicts.keys().any(|policy| self.health.borrow().contains_key(policy)) {
            let health = health::health(&self.engine, &self.failures, &self.health.borrow());
            self.health.send_if_modified(|old| {
                *old != health && {
                    *old = health;
                    true
                }
            });
        }
        self.pending.is_empty()
    }

    /// Carries out operations; returns those that failed.
    fn operate(&mut self, ops: &[Op]) -> BTreeMap<FrontendKey, Failure> {
        let mut failed = BTreeMap::new();
        for op in ops {
            let (key, count, result) = match op {
                Op::Publish(key, entry) => {
                    (key, &mut self.operations.published, self.tables.publish(*key, entry))
                }
                Op::Remove(key) => (key, &mut self.operations.removed, self.tables.remove(key)),
            };
            match result {
                Ok(()) => {
                    *count += 1;
                    tracing::debug!(frontend = %key, "programmed");
                }
                Err(error) => {
                    let failure = failure(&error);
                    *self.operations.failed.entry(failure.reason).or_default() += 1;
                    failed.insert(*key, failure);
                }
            }
        }
        failed
    }

    fn desired(&self, key: &FrontendKey) -> Option<Entry> {
        let decided = self.engine.entry(key);
        match &self.kept {
            Some(kept) => kept.desired(key, decided.as_ref()),
            None => decided.map(|entry| entry.to_model().normalized()),
        }
    }

    /// Remembers failures; `true` when one is new. Thousands of frontends may fail for one reason: that is one line.
    fn fail(&mut self, failed: BTreeMap<FrontendKey, Failure>) -> bool {
        let mut new = failed.iter().filter(|(key, failure)| self.failures.get(key) != Some(failure));
        let first = new.next();
        if let Some((_, first)) = first {
            let more = new.count();
            tracing::error!(more, "{}", first.message);
        }
        let changed = first.is_some();
        self.failures.extend(failed);
        changed
    }

    /// Tells the counters who has which service id.
    fn pass_ids(&mut self, verdicts: &BTreeMap<PolicyRef, Option<Verdict>>) {
        // Who lost the contest for an id does not have it.
        let holders = verdicts.iter().filter(|(policy, _)| self.engine.id_winner_over(policy).is_none());
        let ids: Vec<_> = holders.map(|(policy, v)| (policy, v.as_ref().map(|v| v.service_id))).collect();
        if self.traffic.changes_hands(&ids) {
            self.count();
        }
        self.traffic.judge(&ids);
        self.traffic.prune(self.engine.verdicts());
    }
}

/// Why a frontend could not be programmed.
fn failure(error: &TableError) -> Failure {
    let reason = match error {
        TableError::Full { .. } => FailureReason::TableFull,
        TableError::Operation { .. }
        | TableError::Open { .. }
        | TableError::Layers { .. }
        | TableError::Restless => FailureReason::KernelRefused,
    };
    Failure { reason, message: error.to_string() }
}
