//! Which slices are written when. Of the steps that are left to do for a policy only the first is sent; when it has ended
//! the policy is looked at again, so that the next step follows from what is known then.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
    time::Instant,
};

use balancing_abi::model::PolicyKind;

use super::{Done, Leader};
use crate::cluster::{
    rate_limit::Backoff,
    requests::{Outcome, WriteError},
    slices::{SliceOp, wanted},
    work_queue::WorkQueue,
};
use balancing_core::objects::PolicyRef;

/// Slices that are written at the same time.
const SLICES: usize = 8;

/// Slices to look at, by name of their policy.
#[derive(Default)]
pub(super) struct SliceWork {
    queue: WorkQueue<String>,
    /// Decided, but not sent yet.
    ops: VecDeque<(String, SliceOp)>,
    progress: BTreeMap<String, Progress>,
    running: usize,
    /// Policies for which the objects, and not only the slices, have changed.
    fresh: BTreeSet<String>,
    /// Policies of which one step has ended and the next one follows.
    halfway: BTreeSet<String>,
    failures: Backoff<String>,
    /// Policies whose slices somebody else keeps changing.
    disputes: Backoff<String>,
}

/// Writes of one policy's slices that have not ended.
#[derive(Default)]
struct Progress {
    left: usize,
    failed: bool,
    /// Another step follows.
    goes_on: bool,
}

impl Leader<'_> {
    /// Somebody, perhaps this agent, changed slices of the policy.
    pub(super) fn look_at_slices(&mut self, policy: String, now: Instant) {
        if self.started {
            let at = self.slices.disputes.not_before(&policy, now);
            let at = self.slices.failures.not_before(&policy, at);
            self.slices.queue.add(policy, at);
        }
    }

    pub(super) fn start_slices(&mut self, now: Instant) {
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
        let mut steps = self.store.plan(&policy, wanted(&self.engine, &id).as_ref()).into_iter();
        let (fresh, halfway) = (self.slices.fresh.remove(&policy), self.slices.halfway.remove(&policy));
        let Some(ops) = steps.next() else {
            self.slices.failures.reset(&policy);
            if !self.store.has_slices(&policy) {
                self.slices.disputes.reset(&policy);
            }
            return self.slices.queue.done(&policy);
        };
        if fresh {
            self.slices.disputes.reset(&policy);
        } else if !halfway {
            self.slices.disputes.fail(&policy, now);
        }
        self.slices.progress.insert(
            policy.clone(),
            Progress { left: ops.len(), failed: false, goes_on: steps.next().is_some() },
        );
        self.slices.ops.extend(ops.into_iter().map(|op| (policy.clone(), op)));
    }

    fn send_slice(&mut self, policy: String, op: SliceOp) {
        let name = op.name().to_owned();
        let known = self.store.get(&name).cloned();
        self.slices.running += 1;
        // Only what was seen is changed: what is gone since then is looked at again.
        if known.is_none() != matches!(op, SliceOp::Create(_)) {
            return self.slices.end(policy, false, Instant::now());
        }
        let version = known.as_ref().and_then(|known| known.version.parse().ok()).unwrap_or(0);
        let writer = self.writer.clone();
        self.tasks.spawn(async move {
            let result = writer.slice(op, known).await;
            Done::Slice { policy, name, version, result }
        });
    }

    /// The end of a write of a slice that had this version before.
    pub(super) fn slice_done(
        &mut self,
        policy: String,
        name: String,
        version: u64,
        result: Result<Outcome, WriteError>,
    ) {
        let now = Instant::now();
        let written = matches!(result, Ok(Outcome::Written(_) | Outcome::Deleted));
        let counter = if written { &self.stats.slice_writes } else { &self.stats.slice_errors };
        counter.fetch_add(1, Relaxed);
        if written {
            tracing::debug!(name, policy, "EndpointSlice written");
        }
        for other in self.learn(&policy, name, version, result) {
            if other != policy {
                self.look_at_slices(other, now);
            }
        }
        self.slices.end(policy, written, now);
    }

    /// Takes in the answer; the policies whose slices are not as they were.
    fn learn(
        &mut self,
        policy: &str,
        name: String,
        version: u64,
        result: Result<Outcome, WriteError>,
    ) -> BTreeSet<String> {
        match result {
            Ok(Outcome::Written((name, version, known))) => self.store.put(name, version, Some(known)),
            Ok(Outcome::Outdated(Some(found))) => self.store.read(found, version),
            Ok(Outcome::Deleted | Outcome::Outdated(None)) => {
                self.store.put(name, version.saturating_add(1), None)
            }
            Ok(Outcome::Taken) => {
                tracing::warn!(
                    name,
                    policy,
                    "an EndpointSlice of somebody else has this name; takes another"
                );
                self.store.take_name(name);
                BTreeSet::new()
            }
            Err(error) => {
                tracing::warn!(name, policy, "EndpointSlice not written: {error}; tried again");
                BTreeSet::new()
            }
        }
    }
}

impl SliceWork {
    /// The objects that the policy looks at have changed.
    pub(super) fn add_fresh(&mut self, policy: &str, now: Instant) {
        let policy = policy.to_owned();
        self.fresh.insert(policy.clone());
        let at = self.failures.not_before(&policy, now);
        self.queue.add(policy, at);
    }

    /// When there is something to decide that can be sent, too.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.next_due().filter(|_| self.has_room())
    }

    fn has_room(&self) -> bool {
        self.ops.is_empty() && self.running < SLICES
    }

    /// One write has ended; with the last of its policy that is looked at again where it is needed.
    fn end(&mut self, policy: String, written: bool, now: Instant) {
        self.running -= 1;
        let progress = self.progress.entry(policy.clone()).or_default();
        progress.left = progress.left.saturating_sub(1);
        progress.failed |= !written;
        if progress.left > 0 {
            return;
        }
        let (failed, goes_on) = (progress.failed, progress.goes_on);
        self.progress.remove(&policy);
        self.queue.done(&policy);
        if failed {
            let at = self.failures.fail(&policy, now);
            self.queue.add(policy, at);
            return;
        }
        self.failures.reset(&policy);
        if goes_on {
            self.halfway.insert(policy.clone());
            self.queue.add(policy, now);
        }
    }
}
