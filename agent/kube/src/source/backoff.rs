//! How long to wait before the next attempt.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// Bound of the first wait, and of every later one.
const BOUNDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// Bound of the waits for a kind that the server does not know: a user who installs it soon sees it soon, and a cluster
/// that goes without is not asked all the time by every node.
const MISSING: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(20));

/// Waits that grow with every failure in a row. Each is a random part of its bound, so that the agents of a cluster
/// do not ask an ailing server all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    bounds: (Duration, Duration),
    bound: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { bounds: BOUNDS, bound: BOUNDS.0 }
    }
}

impl Backoff {
    /// Waits for a kind that the server does not know.
    pub(super) fn missing() -> Self {
        Self { bounds: MISSING, bound: MISSING.0 }
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(self.bounds.1);
        between(Duration::ZERO, bound)
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        self.bound = self.bounds.0;
    }
}

fn between(least: Duration, most: Duration) -> Duration {
    const STEPS: u32 = 1 << 16;
    least + (most - least) * (random(STEPS) + 1) / STEPS
}

/// A random number below `bound`, which is not 0. Good for spreading load, for nothing else.
pub(super) fn random(bound: u32) -> u32 {
    // Every RandomState has other keys, so the hash of nothing is different each time.
    let hash = RandomState::new().build_hasher().finish();
    u32::try_from(hash % u64::from(bound)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut longest = [Duration::ZERO; 10];
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            for longest in &mut longest {
                *longest = (*longest).max(backoff.next());
            }
            backoff.reset();
            assert!(backoff.next() <= BOUNDS.0);
        }
        let mut bound = BOUNDS.0;
        for longest in longest {
            assert!(longest <= bound && longest > bound / 2, "{longest:?} of {bound:?}");
            bound = (bound * 2).min(BOUNDS.1);
        }
        assert_eq!(bound, BOUNDS.1);
    }

    #[test]
    fn waits_differ() {
        let waits: std::collections::BTreeSet<_> = (0..100).map(|_| Backoff::default().next()).collect();
        assert!(waits.len() > 50 && !waits.contains(&Duration::ZERO), "{waits:?}");
        assert!((0..100).all(|_| Backoff::missing().next() <= MISSING.0));
    }
}
