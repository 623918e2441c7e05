//! Whom to tell what, and when: compares what is true with what was told, within limits.
//!
//! It holds one small row for each subject that has a problem; it reads no clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use balancing_core::health::{PolicyHealth, Problem};

/// Time between two Events on one subject.
const PER_SUBJECT: Duration = Duration::from_secs(30);
/// Events at once, after a quiet time.
const BURST: u32 = 20;
/// Time in which there is room for one more: ten a minute.
const REFILL: Duration = Duration::from_secs(6);

/// How a subject is.
pub(super) trait State: Clone {
    /// What may be wrong with it.
    type Problem: Clone + PartialEq;

    /// `metadata.uid` of the object: another one of the same name has heard of nothing.
    fn uid(&self) -> &str;
    /// What is wrong now.
    fn problem(&self) -> Option<&Self::Problem>;
}

impl State for PolicyHealth {
    type Problem = Problem;

    fn uid(&self) -> &str {
        &self.uid
    }

    fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }
}

/// One Event to be written: the subject, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice<K, S> {
    pub(super) subject: K,
    pub(super) state: S,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<K, S> {
    /// This now. It counts as told, whatever becomes of it.
    Tell(Notice<K, S>),
    /// Something at this time.
    At(Instant),
    /// Nothing until something changes.
    Nothing,
}

/// What was told about a subject.
#[derive(Debug)]
struct Told<P> {
    uid: String,
    problem: Option<P>,
    at: Instant,
}

/// Everything that was told, and how much more may be.
#[derive(Debug)]
pub(super) struct Schedule<K, S: State> {
    told: BTreeMap<K, Told<S::Problem>>,
    /// Events that may be written at once.
    room: u32,
    /// Since when the room has been as it is.
    since: Instant,
}

impl<K: Ord + Clone, S: State> Schedule<K, S> {
    pub(super) fn new(now: Instant) -> Self {
        Self { told: BTreeMap::new(), room: BURST, since: now }
    }

    /// The most urgent thing to do.
    pub(super) fn next(&mut self, now: Instant, states: &BTreeMap<K, S>) -> Next<K, S> {
        self.refill(now);
        self.forget(now, states);
        let due = states.iter().filter_map(|(subject, is)| Some((self.due(now, subject, is)?, subject, is)));
        // What is new comes first, then whoever waits longest: a subject that comes and goes pushes nobody aside.
        let Some(((_, at), subject, is)) = due.min_by_key(|(order, ..)| *order) else {
            return Next::Nothing;
        };
        if at > now {
            return Next::At(at);
        }
        if self.room == 0 {
            return Next::At(self.since + REFILL);
        }
        self.room -= 1;
        let told = Told { uid: is.uid().to_owned(), problem: is.problem().cloned(), at: now };
        self.told.insert(subject.clone(), told);
        Next::Tell(Notice { subject: subject.clone(), state: is.clone() })
    }

    /// Whether something was told about a subject before, and when there is more to tell; `None` = what was told is true.
    fn due(&self, now: Instant, subject: &K, is: &S) -> Option<(bool, Instant)> {
        let Some(told) = self.told.get(subject) else {
            // Nobody has to hear the end of what they never heard of.
            return is.problem().map(|_| (false, now));
        };
        let changed =
            if told.uid == is.uid() { told.problem.as_ref() != is.problem() } else { is.problem().is_some() };
        changed.then(|| (true, told.at + PER_SUBJECT))
    }

    /// Rows that limit nothing any more: the subject is gone, or well and that was told long ago.
    fn forget(&mut self, now: Instant, states: &BTreeMap<K, S>) {
        self.told.retain(|subject, told| {
            let known =
                states.get(subject).is_some_and(|is| told.problem.is_some() || is.problem().is_some());
            known || now < told.at + PER_SUBJECT
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
