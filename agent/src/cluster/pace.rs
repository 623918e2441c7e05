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
/// Status writes per second, and how many of them at once.
const RATE: u32 = 20;
/// A write that tells numbers only counts as so many.
const NUMBERS: u32 = 4;

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

/// At most [`RATE`] a second over all policies, fewer when they tell numbers only.
#[derive(Debug)]
pub(super) struct Limiter {
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

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// When there will be one.
    pub(super) fn take(&mut self, urgency: Urgency, now: Instant) -> Result<(), Instant> {
        let writes = if urgency == Urgency::Now { 1 } else { NUMBERS };
        let cost = Duration::from_secs(1) / RATE * writes;
        let full_at = self.full_at.max(now) + cost;
        let debt = full_at - now;
        if debt > Duration::from_secs(1) {
            return Err(now + (debt - Duration::from_secs(1)));
        }
        self.full_at = full_at;
        Ok(())
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
        let mut limiter = Limiter::new(start);
        let burst = (0..100).take_while(|_| limiter.take(Urgency::Now, start).is_ok()).count();
        assert_eq!(burst, RATE as usize);
        let next = limiter.take(Urgency::Now, start).unwrap_err();
        assert_eq!(next - start, Duration::from_secs(1) / RATE);
        assert!(limiter.take(Urgency::Now, next).is_ok() && limiter.take(Urgency::Now, next).is_err());
        let mut limiter = Limiter::new(start);
        let numbers = (0..100).take_while(|_| limiter.take(Urgency::Soon, start).is_ok()).count();
        assert_eq!(numbers, (RATE / NUMBERS) as usize);
    }
}
