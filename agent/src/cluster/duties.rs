//! The loop of the elected agent: objects and news in, writes out.
//!
//! Level-triggered: news only say which policy to look at, and what is written follows from what is known then. For
//! one policy all writes of slices, and the one of its status, end before the next are decided. Nothing is written
//! before everything has been listed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
    time::Instant,
};

use balancing_dataplane::model::{Clients, PolicyKind};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::sleep_until,
};

use super::{
    ClusterStats,
    mirror::{Item, Mirror},
    news::{News, Observed, news},
    pace::{Backoff, Limiter, Written},
    queue::Queue,
    requests::{Outcome, WriteError, Writer},
    slices::{SliceOp, wanted},
    status::{self, Status, Urgency},
    store::Store,
};
use crate::{
    objects::PolicyRef,
    resolve::{ClusterPods, Engine, Role, Settings},
    source::{Batch, Change},
};

/// Slices that are written at the same time.
const SLICES: usize = 8;
/// Statuses that are written at the same time.
const STATUSES: usize = 4;

/// The end of a write.
enum Done {
    Slice { policy: String, name: String, version: u64, result: Result<Outcome, WriteError> },
    Status { policy: PolicyRef, result: Result<Option<Item<Observed>>, WriteError> },
}

/// Writes of one policy's slices that have not ended.
#[derive(Default)]
struct Progress {
    left: usize,
    failed: bool,
}

struct Duties<'a> {
    stats: &'a ClusterStats,
    writer: Writer,
    engine: Engine,
    /// The source has delivered everything.
    synced: bool,
    /// Everything has been listed, and every policy was looked at.
    started: bool,
    store: Store,
    local: Mirror<Observed>,
    balancing: Mirror<Observed>,
    tasks: JoinSet<Done>,
    slices: SliceWork,
    statuses: StatusWork,
}

/// Slices to look at, by name of their policy.
#[derive(Default)]
struct SliceWork {
    queue: Queue<String>,
    /// Decided, but not sent yet.
    ops: VecDeque<(String, SliceOp)>,
    progress: BTreeMap<String, Progress>,
    running: usize,
    /// Policies for which the objects, and not only the slices, have changed.
    fresh: BTreeSet<String>,
    failures: Backoff<String>,
    /// Policies whose slices somebody else keeps changing.
    disputes: Backoff<String>,
}

/// Statuses to look at.
struct StatusWork {
    queue: Queue<PolicyRef>,
    running: usize,
    written: BTreeMap<PolicyRef, Written>,
    failures: Backoff<PolicyRef>,
    limiter: Limiter,
}

/// Does the duties until the source ends or a task fails; why.
pub(super) async fn perform(
    client: &Client,
    namespace: &str,
    mut batches: mpsc::Receiver<Batch>,
    stats: &ClusterStats,
) -> String {
    let mut duties = Duties::new(Writer::new(client, namespace), stats);
    let mut news = news(client, namespace);
    loop {
        let due = duties.next_due();
        tokio::select! {
            batch = batches.recv() => {
                let Some(batch) = batch else { return "the source has ended".to_owned() };
                duties.apply(batch);
                while let Ok(more) = batches.try_recv() {
                    duties.apply(more);
                }
            }
            Some(item) = news.next() => duties.observe(item),
            Some(done) = duties.tasks.join_next() => {
                if let Err(error) = duties.finish(done) {
                    return error.to_string();
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
        duties.advance(Instant::now());
    }
}

impl<'a> Duties<'a> {
    fn new(writer: Writer, stats: &'a ClusterStats) -> Self {
        let settings = Settings {
            role: Role::Cluster,
            node_name: String::new(),
            qos_limit: None,
            cluster_pods: ClusterPods::Selected,
            scope: Clients::All,
        };
        Self {
            stats,
            writer,
            engine: Engine::new(settings),
            synced: false,
            started: false,
            store: Store::default(),
            local: Mirror::default(),
            balancing: Mirror::default(),
            tasks: JoinSet::new(),
            slices: SliceWork::default(),
            statuses: StatusWork {
                queue: Queue::default(),
                running: 0,
                written: BTreeMap::new(),
                failures: Backoff::default(),
                limiter: Limiter::new(Instant::now()),
            },
        }
    }

    fn apply(&mut self, batch: Batch) {
        self.synced |= batch.synced;
        self.engine.apply(batch.changes.into_iter().map(|change| match change {
            Change::Upsert(object) => (object.key(), Some(object)),
            Change::Delete(key) => (key, None),
        }));
    }

    fn observe(&mut self, item: News) {
        let now = Instant::now();
        match item {
            News::Slice(event) => {
                for policy in self.store.observe(event) {
                    self.look_at_slices(policy, now);
                }
            }
            News::Policy(kind, event) => {
                for (name, _) in self.mirror(kind).observe(event) {
                    self.look_at_status(&PolicyRef { kind, name }, now);
                }
            }
        }
    }

    fn mirror(&mut self, kind: PolicyKind) -> &mut Mirror<Observed> {
        match kind {
            PolicyKind::LocalRedirect => &mut self.local,
            PolicyKind::Balancing => &mut self.balancing,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let slices = self.slices.queue.next_due().filter(|_| self.slices.has_room());
        let statuses = self.statuses.queue.next_due().filter(|_| self.statuses.running < STATUSES);
        slices.into_iter().chain(statuses).min()
    }

    /// Decides and sends what is due.
    fn advance(&mut self, now: Instant) {
        let listed = self.store.is_listed() && self.local.is_listed() && self.balancing.is_listed();
        if !self.synced || !listed {
            return;
        }
        let delta = self.engine.resolve();
        let balancing = delta.touched.into_iter().filter(|policy| policy.kind == PolicyKind::Balancing);
        for PolicyRef { name, .. } in balancing {
            self.slices.fresh.insert(name.clone());
            let at = self.slices.failures.not_before(&name, now);
            self.slices.queue.add(name, at);
        }
        if !self.started {
            self.started = true;
            for policy in self.store.policies() {
                self.look_at_slices(policy, now);
            }
            tracing::info!(policies = self.engine.verdicts().len(), "the cluster is known");
        }
        for policy in delta.verdicts.keys() {
            self.look_at_status(policy, now);
        }
        self.start_slices(now);
        self.start_statuses(now);
        self.stats.status_pending.store(self.statuses.queue.len() as u64, Relaxed);
    }

    fn finish(&mut self, done: Result<Done, JoinError>) -> Result<(), JoinError> {
        match done? {
            Done::Slice { policy, name, version, result } => self.slice_done(policy, name, version, result),
            Done::Status { policy, result } => self.status_done(&policy, result),
        }
        Ok(())
    }
}

/// Slices.
impl Duties<'_> {
    /// Somebody, perhaps this agent, changed slices of the policy.
    fn look_at_slices(&mut self, policy: String, now: Instant) {
        if self.started {
            let at = self.slices.disputes.not_before(&policy, now);
            let at = self.slices.failures.not_before(&policy, at);
            self.slices.queue.add(policy, at);
        }
    }

    fn start_slices(&mut self, now: Instant) {
        loop {
            while self.slices.running < SLICES
                && let Some((policy, op)) = self.slices.ops.pop_front()
            {
                self.send_slice(policy, op);
            }
            if !self.slices.has_room() {
                return;
            }
            let Some(policy) = self.slices.queue.take(now) else { return };
            self.plan_slices(policy, now);
        }
    }

    fn plan_slices(&mut self, policy: String, now: Instant) {
        let id = PolicyRef { kind: PolicyKind::Balancing, name: policy.clone() };
        let ops = self.store.plan(&policy, wanted(&self.engine, &id).as_ref());
        let fresh = self.slices.fresh.remove(&policy);
        if ops.is_empty() {
            self.slices.failures.reset(&policy);
            return self.slices.queue.done(&policy);
        }
        if fresh {
            self.slices.disputes.reset(&policy);
        } else {
            self.slices.disputes.fail(&policy, now);
        }
        self.slices.progress.insert(policy.clone(), Progress { left: ops.len(), failed: false });
        self.slices.ops.extend(ops.into_iter().map(|op| (policy.clone(), op)));
    }

    fn send_slice(&mut self, policy: String, op: SliceOp) {
        let name = op.name().to_owned();
        let known = self.store.get(&name).cloned();
        let version = known.as_ref().and_then(|known| known.version.parse().ok()).unwrap_or(0);
        let writer = self.writer.clone();
        self.slices.running += 1;
        self.tasks.spawn(async move {
            let result = writer.slice(op, known).await;
            Done::Slice { policy, name, version, result }
        });
    }

    /// Takes in the answer to a write of a slice that had this version before.
    fn slice_done(
        &mut self,
        policy: String,
        name: String,
        version: u64,
        result: Result<Outcome, WriteError>,
    ) {
        self.slices.running -= 1;
        let now = Instant::now();
        let written = matches!(result, Ok(Outcome::Written(_) | Outcome::Deleted));
        let counter = if written { &self.stats.slice_writes } else { &self.stats.slice_errors };
        counter.fetch_add(1, Relaxed);
        let gone = (name.clone(), version.saturating_add(1), None);
        let news = match result {
            Ok(
                Outcome::Written((name, version, known)) | Outcome::Outdated(Some((name, version, known))),
            ) => Some((name, version, Some(known))),
            Ok(Outcome::Deleted | Outcome::Outdated(None)) => Some(gone),
            Ok(Outcome::Taken) => {
                tracing::warn!(
                    name,
                    policy,
                    "an EndpointSlice of somebody else has this name; takes another"
                );
                self.store.take_name(name);
                None
            }
            Err(error) => {
                tracing::warn!(name, policy, "EndpointSlice not written: {error}; tried again");
                None
            }
        };
        if let Some((name, version, known)) = news {
            for other in self.store.put(name, version, known).into_iter().filter(|other| *other != policy) {
                self.look_at_slices(other, now);
            }
        }
        let progress = self.slices.progress.entry(policy.clone()).or_default();
        progress.left = progress.left.saturating_sub(1);
        progress.failed |= !written;
        if progress.left > 0 {
            return;
        }
        let failed = progress.failed;
        self.slices.progress.remove(&policy);
        self.slices.queue.done(&policy);
        if failed {
            let at = self.slices.failures.fail(&policy, now);
            self.slices.queue.add(policy, at);
        } else {
            self.slices.failures.reset(&policy);
        }
    }
}

impl SliceWork {
    fn has_room(&self) -> bool {
        self.ops.is_empty() && self.running < SLICES
    }
}

/// Statuses.
impl Duties<'_> {
    fn look_at_status(&mut self, policy: &PolicyRef, now: Instant) {
        if !self.started {
            return;
        }
        if self.mirror(policy.kind).get(&policy.name).is_none() {
            self.statuses.written.remove(policy);
            self.statuses.failures.reset(policy);
            return;
        }
        let Some((_, status, urgency)) = self.wanted_status(policy) else { return };
        let due = self.statuses.written.get(policy).map_or(now, |written| written.due(&status, urgency));
        let due = self.statuses.failures.not_before(policy, due.max(now));
        self.statuses.queue.add(policy.clone(), due);
    }

    /// The uid of the policy and the status to write, if it is not there already.
    fn wanted_status(&self, policy: &PolicyRef) -> Option<(String, Status, Urgency)> {
        let mirror = match policy.kind {
            PolicyKind::LocalRedirect => &self.local,
            PolicyKind::Balancing => &self.balancing,
        };
        let observed = mirror.get(&policy.name)?;
        let object = self.engine.snapshot().policy(policy)?;
        let verdict = self.engine.verdicts().get(policy)?;
        // A policy was replaced by another of the same name: the news of one of the two are yet to come.
        if object.uid != observed.uid {
            return None;
        }
        let (current, now) = (observed.status.as_ref(), Timestamp::now());
        let status = status::next(object, verdict, current, observed.generation, now)?;
        let urgency = status.urgency(current);
        Some((object.uid.clone(), status, urgency))
    }

    fn start_statuses(&mut self, now: Instant) {
        while self.statuses.running < STATUSES
            && let Some(policy) = self.statuses.queue.take(now)
        {
            let Some((uid, status, _)) = self.wanted_status(&policy) else {
                self.statuses.queue.done(&policy);
                continue;
            };
            if let Err(at) = self.statuses.limiter.take(now) {
                self.statuses.queue.done(&policy);
                return self.statuses.queue.add(policy, at);
            }
            let written = Written::note(self.statuses.written.get(&policy), status.clone(), now);
            self.statuses.written.insert(policy.clone(), written);
            self.statuses.running += 1;
            let writer = self.writer.clone();
            self.tasks.spawn(async move {
                let result = writer.status(&policy, &uid, &status).await;
                Done::Status { policy, result }
            });
        }
    }

    fn status_done(&mut self, policy: &PolicyRef, result: Result<Option<Item<Observed>>, WriteError>) {
        self.statuses.running -= 1;
        self.statuses.queue.done(policy);
        let now = Instant::now();
        match result {
            Ok(Some((name, version, observed))) => {
                self.stats.status_writes.fetch_add(1, Relaxed);
                self.statuses.failures.reset(policy);
                self.mirror(policy.kind).put(name, version, Some(observed));
            }
            Ok(None) => {
                self.stats.status_errors.fetch_add(1, Relaxed);
                self.statuses.failures.fail(policy, now);
                tracing::debug!(policy = policy.name, "the policy is gone or another by now");
            }
            Err(error) => {
                self.stats.status_errors.fetch_add(1, Relaxed);
                self.statuses.failures.fail(policy, now);
                let kind = policy.kind.kind();
                tracing::warn!(kind, name = policy.name, "status not written: {error}; tried again");
            }
        }
        self.look_at_status(policy, now);
    }
}
