//! What was counted, by service id, as growth: numbers that a change of the tables never takes back.
//!
//! The kernel counts by frontend id. An id keeps its counters when its layer passes to another service id, and
//! starts at zero when it is given to another frontend. Whoever changes a layer looks at its counters first.

use std::collections::BTreeMap;

use super::read::Counters;

/// Counters of frontend ids at the last look, and what was added since the last [`Tally::take`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By frontend id; ids are dense.
    seen: Vec<Counters>,
    grown: BTreeMap<u32, Counters>,
}

impl Tally {
    /// Takes in what the kernel has counted for a frontend id that belongs to a service id.
    pub(crate) fn look(&mut self, id: u32, service_id: u32, now: Counters) {
        let index = id as usize;
        if self.seen.len() <= index {
            if now == Counters::default() {
                return;
            }
            self.seen.resize(index + 1, Counters::default());
        }
        let before = std::mem::replace(&mut self.seen[index], now);
        if now != before {
            self.grown.entry(service_id).or_default().add(&now.since(&before));
        }
    }

    /// A frontend id that is given away again counts from zero.
    pub(crate) fn forget(&mut self, id: u32) {
        if let Some(seen) = self.seen.get_mut(id as usize) {
            *seen = Counters::default();
        }
    }

    /// What was added since the last call, by service id.
    pub(crate) fn take(&mut self) -> BTreeMap<u32, Counters> {
        std::mem::take(&mut self.grown)
    }
}

impl Counters {
    /// Adds other counters.
    pub fn add(&mut self, other: &Self) {
        self.redirected = self.redirected.saturating_add(other.redirected);
        self.qos_overflow = self.qos_overflow.saturating_add(other.qos_overflow);
        self.no_backend = self.no_backend.saturating_add(other.no_backend);
        self.skipped = self.skipped.saturating_add(other.skipped);
    }

    /// What came on top. A counter may be a little smaller than before, where a program was kept off its CPU in mid-addition;
    /// one that starts again at zero was forgotten first.
    fn since(&self, before: &Self) -> Self {
        let grown = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            redirected: grown(self.redirected, before.redirected),
            qos_overflow: grown(self.qos_overflow, before.qos_overflow),
            no_backend: grown(self.no_backend, before.no_backend),
            skipped: grown(self.skipped, before.skipped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(redirected: u64) -> Counters {
        Counters { redirected, ..Counters::default() }
    }

    #[test]
    fn growth_goes_to_whoever_had_the_frontend() {
        let mut tally = Tally::default();
        tally.look(3, 10, redirected(5));
        tally.look(3, 10, redirected(7));
        assert_eq!(tally.take(), BTreeMap::from([(10, redirected(7))]));
        tally.look(3, 11, redirected(8));
        assert_eq!(tally.take(), BTreeMap::from([(11, redirected(1))]), "what 10 had stays with 10");
        assert_eq!(tally.take(), BTreeMap::new());
    }

    #[test]
    fn an_id_that_is_given_away_counts_from_zero() {
        let mut tally = Tally::default();
        tally.look(0, 10, redirected(5));
        tally.forget(0);
        tally.look(0, 11, redirected(6));
        assert_eq!(tally.take(), BTreeMap::from([(10, redirected(5)), (11, redirected(6))]));
        tally.look(0, 11, redirected(5));
        assert_eq!(tally.take()[&11], Counters::default(), "an addition that was lost is nobody's");
    }

    #[test]
    fn frontends_that_counted_nothing_cost_nothing() {
        let mut tally = Tally::default();
        tally.look(60_000, 10, Counters::default());
        tally.forget(60_000);
        assert_eq!((tally.seen.len(), tally.take()), (0, BTreeMap::new()));
    }
}
