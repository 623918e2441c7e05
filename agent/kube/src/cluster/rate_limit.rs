//! When a write may be made: limits that keep the API server calm whatever happens around the agent.
//!
//! It reads no clock; callers say what time it is.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    time::{Duration, Instant},
};

use super::status::{Status, Urgency};

/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Least time between two status writes of a policy.
const STATUS: Duration = Duration::from_secs(1);
/// The same when a condition says something else.
const URGENT: Duration = Duration::from_millis(100);
/// Longest wait between two writes of one status that somebody else keeps changing.
const DISPUTE: Duration = Duration::from_secs(300);
/// Time in which a token for a status write comes back: 20 a second where a condition says something else, 5 where
/// numbers do.
const COST: Duration = Duration::from_millis(50);
/// See [`COST`].
const COST_OF_NUMBERS: Duration = Duration::from_millis(200);
/// So much time's tokens may be used at once.
const BURST: Duration = Duration::from_secs(1);

/// Growing waits, by key.
#[derive(Debug)]
pub(super) struct Backoff<K> {
    waits: BTreeMap<K, (u32, Instant)>,
}

/// The last status that was written for a policy.
#[derive(Debug)]
pub(super) struct Written {
    status: Status,
    at: Instant,
    /// How often in a row it was the same.
    again: u32,
}

/// Turns to write a status, over all policies: one per [`COST`], after a rest as many as come back in [`BURST`]. Numbers
/// have tokens of their own, so that conditions never wait for them.
#[derive(Debug)]
pub(super) struct Turns<K> {
    conditions: Limiter,
    numbers: Limiter,
    /// Who waits for what, and until when.
    given: BTreeMap<K, (Urgency, Instant)>,
}

/// Tokens that come back at a constant rate.
#[derive(Debug)]
struct Limiter {
    cost: Duration,
    /// When all tokens will be back.
    full_at: Instant,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { waits: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Backoff<K> {
    /// Notes another failure in a row; until when to wait. One after a quiet time counts as the first.
    pub(super) fn fail(&mut self, key: &K, now: Instant) -> Instant {
        let (count, until) = self.waits.entry(key.clone()).or_insert((0, now));
        if now > *until + RETRY.1 {
            *count = 0;
        }
        let wait = doubled(RETRY.0, *count, RETRY.1);
        *count += 1;
        *until = now + wait / 2 + jitter(wait / 2);
        *until
    }

    /// There is nothing to wait for any more.
    pub(super) fn reset(&mut self, key: &K) {
        self.waits.remove(key);
    }

    /// The given time, or the end of the wait if that is later.
    pub(super) fn not_before(&self, key: &K, at: Instant) -> Instant {
        self.waits.get(key).map_or(at, |(_, until)| at.max(*until))
    }
}

impl Written {
    /// Notes that a status is written now, after those before.
    pub(super) fn note(before: Option<&Self>, status: Status, at: Instant) -> Self {
        let again = before.filter(|before| before.status.says_the_same(&status)).map_or(0, |b| b.again + 1);
        Self { status, at, again }
    }

    /// When `next` may be written at the earliest. Somebody who undoes a status is answered less and less often.
    pub(super) fn due(&self, next: &Status, urgency: Urgency) -> Instant {
        if self.status.says_the_same(next) {
            return self.at + doubled(STATUS, self.again, DISPUTE);
        }
        self.at + if urgency == Urgency::Now { URGENT } else { STATUS }
    }
}

impl<K: Ord + Clone> Turns<K> {
    pub(super) fn new(now: Instant) -> Self {
        let limiter = |cost| Limiter { cost, full_at: now };
        Self { conditions: limiter(COST), numbers: limiter(COST_OF_NUMBERS), given: BTreeMap::new() }
    }

    /// Until when a write has to wait; `None` = it is made now. Who has been given a turn keeps it.
    pub(super) fn wait(&mut self, key: &K, urgency: Urgency, now: Instant) -> Option<Instant> {
        let given = self.given.get(key).filter(|(given, _)| *given == urgency || *given == Urgency::Now);
        let at = given.map(|(_, at)| *at).unwrap_or_else(|| match urgency {
            Urgency::Now => self.conditions.take(now),
            Urgency::Soon => self.numbers.take(now),
        });
        if at <= now {
            self.given.remove(key);
            return None;
        }
        self.given.insert(key.clone(), (urgency, at));
        Some(at)
    }

    /// There is nothing to write any more.
    pub(super) fn forget(&mut self, key: &K) {
        self.given.remove(key);
    }
}

impl Limiter {
    /// Takes a token, which may be one that is not there yet; when it will be.
    fn take(&mut self, now: Instant) -> Instant {
        self.full_at = self.full_at.max(now) + self.cost;
        // The clock may not reach back that far on a machine that has just started.
        self.full_at.checked_sub(BURST).map_or(now, |at| at.max(now))
    }
}

/// A time below `limit` that differs from host to host.
pub(super) fn jitter(limit: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let share = u32::try_from(random >> 32).unwrap_or(u32::MAX);
    limit.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

fn doubled(first: Duration, times: u32, limit: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_status(backends: u64) -> Status {
        Status { backends: Some(backends), ..Status::default() }
    }

    #[test]
    fn waits_grow_and_are_forgotten() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.not_before(&"a", now), now);
        let waits: Vec<Duration> = (0..12).map(|_| backoff.fail(&"a", now) - now).collect();
        for (n, wait) in waits.iter().enumerate() {
            let full = RETRY.0 * 2_u32.pow(u32::try_from(n).unwrap());
            assert!(*wait >= full.min(RETRY.1) / 2 && *wait <= full.min(RETRY.1), "{n}: {wait:?}");
        }
        assert_eq!(backoff.not_before(&"a", now), now + waits[11]);
        backoff.reset(&"a");
        assert_eq!(backoff.not_before(&"a", now), now);
    }

    #[test]
    fn numbers_gather_and_flips_do_not() {
        let now = Instant::now();
        let written = Written::note(None, mk_status(1), now);
        assert_eq!(written.due(&mk_status(2), Urgency::Soon), now + STATUS);
        assert_eq!(written.due(&mk_status(2), Urgency::Now), now + URGENT);
    }

    #[test]
    fn a_dispute_slows_down() {
        let now = Instant::now();
        let mut written = Written::note(None, mk_status(1), now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push((written.due(&mk_status(1), Urgency::Now) - now).as_secs());
            written = Written::note(Some(&written), mk_status(1), now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        written = Written::note(Some(&written), mk_status(2), now);
        assert_eq!(written.due(&mk_status(2), Urgency::Now), now + STATUS, "news end it");
    }

    #[test]
    fn no_second_sees_more_than_its_share() {
        let start = Instant::now();
        let mut turns = Turns::new(start);
        let at_once = |turns: &mut Turns<u32>, urgency, keys: std::ops::Range<u32>| {
            keys.filter(|key| turns.wait(key, urgency, start).is_none()).count()
        };
        assert_eq!(at_once(&mut turns, Urgency::Soon, 0..100), 5);
        assert_eq!(at_once(&mut turns, Urgency::Now, 100..200), 20, "conditions do not wait for numbers");
        assert_eq!(
            turns.wait(&5, Urgency::Soon, start),
            Some(start + COST_OF_NUMBERS),
            "a turn stays the same"
        );
        assert_eq!(turns.wait(&5, Urgency::Soon, start + COST_OF_NUMBERS), None);
        assert_eq!(turns.wait(&120, Urgency::Now, start), Some(start + COST));
        // Numbers that wait become a condition: it takes the next turn of those.
        assert_eq!(turns.wait(&6, Urgency::Now, start), Some(start + COST * 81));
        assert_eq!(turns.wait(&6, Urgency::Soon, start), Some(start + COST * 81));
        turns.forget(&6);
        assert_ne!(turns.wait(&6, Urgency::Now, start), Some(start + COST * 81));
    }
}
