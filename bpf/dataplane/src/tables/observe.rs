//! What the writer of the tables says about them: counters, use, errors. It changes nothing but its own notes.

use std::collections::BTreeMap;

use balancing_abi::sockets::{maps, stat};

use super::{
    Counters, TableError, Tables, Usage,
    read::{self, Used},
};

impl Tables {
    /// Notes what a frontend id has counted so far for a service id.
    pub(super) fn look(&mut self, id: u32, service_id: u32) {
        self.tally.look(id, service_id, self.pins.counters(id));
    }

    /// Notes what every layer has counted so far: reads memory, no system call.
    pub fn count(&mut self) {
        // Both maps have the same keys.
        for (placed, entry) in self.placed.values().zip(self.entries.values()) {
            for (placed, layer) in placed.iter().zip(&entry.layers) {
                self.tally.look(placed.id, layer.service_id, self.pins.counters(placed.id));
            }
        }
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
        let placed = || self.placed.values().flatten();
        let used = Used {
            layers: placed().count(),
            slots: placed().filter_map(|p| p.set).map(|set| set.count as usize).sum(),
            skips: self.rows.skips() + self.exempt.len(),
            windows: self.rows.windows(),
            policies: self.policies.len(),
        };
        // A crowded bucket is a lack of room for frontends.
        let refused = |table: &str| {
            let index = if table == maps::FRONTENDS { self.refused.get(maps::INDEX) } else { None };
            self.refused.get(table).unwrap_or(&0) + index.unwrap_or(&0)
        };
        read::usage(&self.pins, &self.sizes, &used, |table| Some(refused(table)))
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

    /// See [`super::Reader::events_lost`].
    ///
    /// # Errors
    /// A refused operation.
    pub fn events_lost(&self) -> Result<u64, TableError> {
        self.pins.stat(stat::EVENTS_LOST)
    }
}
