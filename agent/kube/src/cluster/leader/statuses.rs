//! Which statuses are written when.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Instant};

use balancing_abi::model::PolicyKind;
use jiff::Timestamp;

use super::{Done, Leader};
use crate::cluster::{
    cache::Item,
    rate_limit::{Backoff, Turns, Written},
    requests::WriteError,
    status::{self, Status, Urgency},
    watch_event::Observed,
    work_queue::WorkQueue,
};
use balancing_core::objects::PolicyRef;

/// Statuses that are written at the same time.
const STATUSES: usize = 4;

/// Statuses to look at.
pub(super) struct StatusWork {
    queue: WorkQueue<PolicyRef>,
    running: usize,
    written: BTreeMap<PolicyRef, Written>,
    failures: Backoff<PolicyRef>,
    turns: Turns<PolicyRef>,
}

impl Leader<'_> {
    pub(super) fn look_at_status(&mut self, policy: &PolicyRef, now: Instant) {
        if !self.started {
            return;
        }
        if self.cache(policy.kind).get(&policy.name).is_none() {
            self.statuses.written.remove(policy);
            self.statuses.failures.reset(policy);
            self.statuses.turns.forget(policy);
            return;
        }
        let Some((_, status, urgency)) = self.wanted_status(policy) else { return };
        let due = self.statuses.written.get(policy).map_or(now, |written| written.due(&status, urgency));
        let due = self.statuses.failures.not_before(policy, due.max(now));
        self.statuses.queue.add(policy.clone(), due);
    }

    /// The uid of the policy and the status to write, if it is not there already.
    fn wanted_status(&self, policy: &PolicyRef) -> Option<(String, Status, Urgency)> {
        let cache = match policy.kind {
            PolicyKind::LocalRedirect => &self.local,
            PolicyKind::Balancing => &self.balancing,
        };
        let observed = cache.get(&policy.name)?;
        let object = self.engine.snapshot().policy(policy)?;
        let verdict = self.engine.verdicts().get(policy)?;
        // A policy was replaced by another of the same name: the news of one of the two are yet to come.
        if object.uid != observed.uid {
            return None;
        }
        let (current, now) = (observed.status.as_ref(), Timestamp::now());
        let status =
            status::next(object, verdict, current, observed.generation, self.given_ports(object), now)?;
        let urgency = status.urgency(current);
        Some((object.uid.clone(), status, urgency))
    }

    pub(super) fn start_statuses(&mut self, now: Instant) {
        while self.statuses.running < STATUSES
            && let Some(policy) = self.statuses.queue.take(now)
        {
            let Some((uid, status, urgency)) = self.wanted_status(&policy) else {
                self.statuses.turns.forget(&policy);
                self.statuses.queue.done(&policy);
                continue;
            };
            if let Some(at) = self.statuses.turns.wait(&policy, urgency, now) {
                self.statuses.queue.done(&policy);
                self.statuses.queue.add(policy, at);
                continue;
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

    pub(super) fn status_done(
        &mut self,
        policy: &PolicyRef,
        result: Result<Option<Item<Observed>>, WriteError>,
    ) {
        self.statuses.running -= 1;
        self.statuses.queue.done(policy);
        let now = Instant::now();
        match result {
            Ok(Some((name, version, observed))) => {
                self.stats.status_writes.fetch_add(1, Relaxed);
                self.statuses.failures.reset(policy);
                self.cache(policy.kind).put(name, version, Some(observed));
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

impl StatusWork {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queue: WorkQueue::default(),
            running: 0,
            written: BTreeMap::new(),
            failures: Backoff::default(),
            turns: Turns::new(now),
        }
    }

    /// When there is something to decide that can be sent, too.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.next_due().filter(|_| self.running < STATUSES)
    }

    /// How many policies wait for their status.
    pub(super) fn pending(&self) -> u64 {
        self.queue.len() as u64
    }
}
