//! When deletions wait: a list of peers that suddenly became much shorter is more often a fault of whoever tells
//! it than the truth.
//!
//! Pure: the caller tells the time.

use std::time::{Duration, Instant};

/// How long deletions wait.
pub const GRACE: Duration = Duration::from_secs(60);
/// Percent of the peers that may go at once.
const AT_ONCE: usize = 30;
/// Fewer peers than this are never held: with so few every departure is a large part.
const FEW: usize = 4;

/// Whether what is no longer wanted may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletions {
    /// It is deleted.
    Allowed,
    /// Nothing is deleted.
    Held,
}

/// Watches how many of the known peers remain.
#[derive(Clone, Debug, Default)]
pub struct Shrink {
    held_since: Option<Instant>,
}

impl Shrink {
    /// Nothing is held.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decides for a list that still has `remaining` of the `known` peers. `known` are those that are programmed, held
    /// ones included.
    pub fn judge(&mut self, known: usize, remaining: usize, now: Instant) -> Deletions {
        let gone = known.saturating_sub(remaining);
        if known < FEW || gone * 100 <= known * AT_ONCE {
            self.held_since = None;
            return Deletions::Allowed;
        }
        let since = *self.held_since.get_or_insert(now);
        if now.saturating_duration_since(since) < GRACE { Deletions::Held } else { Deletions::Allowed }
    }

    /// When the grace period of what is held ends.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.held_since.map(|since| since + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Deletions::{Allowed, Held};

    #[test]
    fn a_sudden_loss_is_held_for_the_grace_period() {
        let (mut shrink, start) = (Shrink::new(), Instant::now());
        assert_eq!(shrink.judge(10, 7, start), Allowed, "exactly 30 %");
        assert_eq!(shrink.until(), None);
        assert_eq!(shrink.judge(10, 6, start), Held);
        assert_eq!(shrink.until(), Some(start + GRACE));
        assert_eq!(
            shrink.judge(10, 5, start + Duration::from_secs(59)),
            Held,
            "a further loss starts no new period"
        );
        assert_eq!(shrink.judge(10, 5, start + GRACE), Allowed);
        assert_eq!(shrink.judge(5, 5, start + GRACE), Allowed, "done");
        assert_eq!(shrink.judge(5, 1, start + GRACE), Held, "the next loss has a period of its own");
    }

    #[test]
    fn a_list_that_recovers_is_held_anew() {
        let (mut shrink, start) = (Shrink::new(), Instant::now());
        assert_eq!(shrink.judge(100, 0, start), Held);
        assert_eq!(shrink.judge(100, 100, start + Duration::from_secs(50)), Allowed);
        assert_eq!(shrink.judge(100, 0, start + Duration::from_secs(70)), Held);
    }

    #[test]
    fn few_peers_are_never_held() {
        let mut shrink = Shrink::new();
        let now = Instant::now();
        assert_eq!(shrink.judge(3, 0, now), Allowed);
        assert_eq!(shrink.judge(0, 0, now), Allowed);
        assert_eq!(shrink.judge(4, 0, now), Held);
    }
}
