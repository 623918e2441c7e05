//! What the writer of the tables says about them: counters, use, errors. It changes nothing but its own notes.

use std::collections::BTreeMap;

use balancing_abi::stat;

use super::{Counters, Placed, TableError, Tables, Usage, read};

impl Tables {
    /// Notes what a layer has counted so far. Counters that cannot be read are those of the last look.
    pub(super) fn look(&mut self, placed: &Placed) {
        if let Ok(counters) = self.pins.counters(placed.id) {
            self.tally.look(placed.id, placed.layer.service_id, counters);
        }
    }

    /// Notes what every layer has counted so far: one system call per layer, two per counter that seldom counts.
    ///
    /// # Errors
    /// A refused operation; what was noted before it counts.
    pub fn count(&mut self) -> Result<(), TableError> {
        let rare = self.pins.rare_counters()?;
        for placed in self.placed.values() {
            let rare = rare.get(&placed.id).copied().unwrap_or_default();
            let counters = Counters { redirected: self.pins.redirected(placed.id)?, ..rare };
            self.tally.look(placed.id, placed.layer.service_id, counters);
        }
        Ok(())
    }

    /// What was counted since the last call, by service id, as far as it was noted: by [`Self::count`], and whenever a
    /// layer went or passed to another service id.
    pub fn take_counted(&mut self) -> BTreeMap<u32, Counters> {
        self.tally.take()
    }

    /// How full the tables are, as [`super::Reader::usage`] tells it.
    ///
    /// # Errors
    /// A refused operation.
    pub fn usage(&self) -> Result<Vec<Usage>, TableError> {
        let slots = self.placed.values().filter_map(|p| p.set).map(|set| set.count as usize).sum();
        let skips = self.rows.skips() + self.exempt;
        read::usage(&self.pins, self.sizes, [self.placed.len(), slots, skips, self.rows.windows()])
    }

    /// See [`super::Reader::overwritten`].
    ///
    /// # Errors
    /// A refused operation.
    pub fn overwritten(&self) -> Result<u64, TableError> {
        self.pins.stat(stat::CONN_OVERWRITTEN)
    }

    /// See [`super::Reader::hook_errors`].
    ///
    /// # Errors
    /// A refused operation.
    pub fn hook_errors(&self) -> Result<Vec<(&'static str, u64)>, TableError> {
        read::hook_errors(&self.pins)
    }
}
