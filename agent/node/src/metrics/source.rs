//! Where objects come from.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use super::Out;

/// A source at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceSample {
    /// The complete list has been delivered.
    pub synced: bool,
    /// What is wrong with it, by number.
    pub problems: usize,
    /// When a change arrived last.
    pub last_change: Option<SystemTime>,
    /// When the source said last what is stored of it on this host; `None` = nothing is.
    pub state_confirmed: Option<SystemTime>,
    /// That stands in for the source.
    pub state_in_force: bool,
    /// Objects that the agent knows, by Kubernetes kind.
    pub objects: BTreeMap<&'static str, usize>,
    /// Watches of the API server, by Kubernetes kind; a directory has none.
    pub watches: BTreeMap<&'static str, WatchSample>,
}

/// A watch since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchSample {
    /// Changes of objects that it delivered.
    pub events: u64,
    /// Complete lists that it had to ask for.
    pub relists: u64,
    /// Requests that failed, and watches that broke.
    pub errors: u64,
}

impl SourceSample {
    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let synced = u64::from(self.synced);
        out.value("source_synced", "Whether the source has delivered its complete list", synced)?;
        out.value("source_problems", "What the source cannot read at the moment", self.problems)?;
        out.time("source_last_change_timestamp", "When a change of objects arrived last", self.last_change)?;
        let (confirmed, in_force) = (self.state_confirmed, u64::from(self.state_in_force));
        out.time(
            "stored_state_timestamp",
            "When the API server last said what is stored on this host for a start without it",
            confirmed,
        )?;
        out.value(
            "stored_state_in_force",
            "Whether the stored state stands in for an API server that has not answered since the start",
            in_force,
        )?;
        let objects = self.objects.iter().map(|(kind, count)| ([("kind", *kind)], *count));
        out.values("objects", "Objects that the agent knows", objects)?;
        let watches = |count: fn(&WatchSample) -> u64| {
            self.watches.iter().map(move |(kind, watch)| ([("kind", *kind)], count(watch)))
        };
        out.counts("watch_events", "Changes of objects that watches delivered", watches(|w| w.events))?;
        out.counts("watch_relists", "Complete lists that watches asked for", watches(|w| w.relists))?;
        out.counts("watch_errors", "Requests of watches that failed", watches(|w| w.errors))
    }
}
