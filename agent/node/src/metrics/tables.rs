//! The tables of the kernel, and operations on them.

use std::fmt;

use balancing_dataplane::tables::Usage;

use super::Out;
use crate::owner::Operations;
use balancing_core::failure::FailureReason;

/// The tables at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSample {
    /// Frontends in force.
    pub frontends: usize,
    /// Frontends that are not as the policies want them.
    pub failed: usize,
    /// How full the tables are.
    pub usage: Vec<Usage>,
    /// Records of connected sockets that gave way to younger ones; `None` = it cannot be read.
    pub overwritten: Option<u64>,
    /// Events that found the buffer full; `None` = it cannot be read.
    pub events_lost: Option<u64>,
    /// Errors by hook.
    pub hook_errors: Vec<(&'static str, u64)>,
    /// Operations on frontends.
    pub operations: Operations,
}

impl TableSample {
    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        out.value("frontends", "Frontends in force", self.frontends)?;
        out.value("frontends_failed", "Frontends that are not as the policies want them", self.failed)?;
        let used = self.usage.iter().map(|usage| ([("table", usage.name)], usage.used));
        out.values("table_entries", "Entries in use", used)?;
        let capacity = self.usage.iter().map(|usage| ([("table", usage.name)], usage.capacity));
        out.values("table_capacity", "Entries there is room for", capacity)?;
        let dropped = self.usage.iter().filter_map(|usage| Some(([("table", usage.name)], usage.dropped?)));
        out.counts("table_dropped", "What found no room in a table, or had to give way", dropped)?;
        out.count("events_lost", "Events that found the buffer full", self.events_lost)?;
        let overwritten = "Connected sockets whose record gave way to that of a younger one";
        out.count("connections_overwritten", overwritten, self.overwritten)?;
        let errors = self.hook_errors.iter().map(|(hook, count)| ([("hook", *hook)], *count));
        out.counts("hook_errors", "Calls that a program let pass because of an error", errors)?;
        out.count("frontends_published", "Frontends made or changed", Some(self.operations.published))?;
        out.count("frontends_removed", "Frontends taken out", Some(self.operations.removed))?;
        let failures = FailureReason::ALL.map(|reason| {
            let count = self.operations.failed.get(&reason).copied();
            ([("reason", reason.as_str())], count.unwrap_or_default())
        });
        out.counts("frontend_failures", "Attempts to program a frontend that failed", failures)
    }
}
