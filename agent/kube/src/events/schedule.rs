//! Whom to tell what, and when: compares what is true with what was told, within limits.
//!
//! It holds one small row for each policy that failed; it reads no clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use balancing_core::health::{Health, PolicyHealth, Problem};
use balancing_core::objects::PolicyRef;

/// Time between two Events on one policy.
const PER_POLICY: Duration = Duration::from_secs(30);
/// Events at once, after a quiet time.
const BURST: u32 = 20;
/// Time in which there is room for one more: ten a minute.
const REFILL: Duration = Duration::from_secs(6);

/// One Event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) policy: PolicyRef,
    pub(super) uid: String,
    pub(super) frontends: usize,
    /// `None` = it is over.
    pub(super) problem: Option<Problem>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This now. It counts as told, whatever becomes of it.
    Tell(Notice),
    /// Something at this time.
    At(Instant),
    /// Nothing until something changes.
    Nothing,
}

/// What was told about a policy.
#[derive(Debug)]
struct Told {
    uid: String,
    problem: Option<Problem>,
    at: Instant,
}

/// Everything that was told, and how much more may be.
#[derive(Debug)]
pub(super) struct Schedule {
    told: BTreeMap<PolicyRef, Told>,
    /// Events that may be written at once.
    room: u32,
    /// Since when the room has been as it is.
    since: Instant,
}

impl Schedule {
    pub(super) fn new(now: Instant) -> Self {
        Self { told: BTreeMap::new(), room: BURST, since: now }
    }

    /// The most urgent thing to do.
    pub(super) fn next(&mut self, now: Instant, health: &Health) -> Next {
        self.refill(now);
        self.forget(now, health);
        let due = health.iter().filter_map(|(policy, is)| Some((self.due(now, policy, is)?, policy, is)));
        // What is new comes first, then whoever waits longest: a policy that comes and goes pushes nobody aside.
        let Some(((_, at), policy, is)) = due.min_by_key(|(order, ..)| *order) else { return Next::Nothing };
        if at > now {
            return Next::At(at);
        }
        if self.room == 0 {
            return Next::At(self.since + REFILL);
        }
        self.room -= 1;
        let (uid, problem) = (is.uid.clone(), is.problem.clone());
        self.told.insert(policy.clone(), Told { uid: uid.clone(), problem: problem.clone(), at: now });
        Next::Tell(Notice { policy: policy.clone(), uid, frontends: is.frontends, problem })
    }

    /// Whether something was told about a policy before, and when there is more to tell; `None` = what was told is true.
    fn due(&self, now: Instant, policy: &PolicyRef, is: &PolicyHealth) -> Option<(bool, Instant)> {
        let Some(told) = self.told.get(policy) else {
            // Nobody has to hear the end of what they never heard of.
            return is.problem.as_ref().map(|_| (false, now));
        };
        let changed = if told.uid == is.uid { told.problem != is.problem } else { is.problem.is_some() };
        changed.then(|| (true, told.at + PER_POLICY))
    }

    /// Rows that limit nothing any more: the policy is gone, or well and that was told long ago.
    fn forget(&mut self, now: Instant, health: &Health) {
        self.told.retain(|policy, told| {
            let known = health.get(policy).is_some_and(|is| told.problem.is_some() || is.problem.is_some());
            known || now < told.at + PER_POLICY
        });
    }

    fn refill(&mut self, now: Instant) {
        while self.room < BURST && now >= self.since + REFILL {
            self.room += 1;
            self.since += REFILL;
        }
        if self.room == BURST {
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests;
