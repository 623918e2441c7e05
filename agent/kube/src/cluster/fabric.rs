//! What the controller does for the fabric: it removes what members left behind, tells in `status` how fabrics, members and
//! hosts outside the cluster are doing, and keeps the list by which admission policies know those hosts.
//!
//! It is pure: what is known in, what is left to write out. `leader::fabric` sends it.

use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use serde_json::Value;

pub(super) use garbage::{Gone, Remains, has_no_right};
pub(super) use news::{TakenBack, news};
pub(super) use orphans::Orphans;
pub(super) use status::{Status, in_force};

use crate::source::Kind;
use balancing_core::snapshot::Snapshot;

mod garbage;
mod hosts;
mod news;
mod orphans;
mod overlap;
mod pool;
mod status;
#[cfg(test)]
mod tests;

/// Removals, and statuses, that are decided at once: many of the one keep none of the other waiting. What is left is decided
/// again.
const WRITES: usize = 32;

/// An object of the fabric, as far as its status goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// `metadata.uid`
    pub(super) uid: String,
    /// `metadata.generation`
    pub(super) generation: i64,
    /// Our part of `status`.
    pub(super) status: Option<Status>,
}

/// What is read now and then and not watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// The Leases of hosts outside the cluster, by name.
    pub(super) leases: BTreeMap<String, Lease>,
    /// The list of hosts as it is.
    pub(super) hosts: BTreeMap<String, String>,
}

/// The Lease of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// When it was renewed.
    pub(super) renewed: Timestamp,
    /// Seconds for which that counts.
    pub(super) seconds: i64,
    /// When this renewal was read for the first time: no clock but one's own tells how long ago it was.
    pub(super) seen: Instant,
}

impl Reading {
    /// What was read now, after that.
    pub(super) fn after(mut self, before: Option<&Self>) -> Self {
        for (name, lease) in &mut self.leases {
            let known = before.and_then(|before| before.leases.get(name));
            if let Some(known) = known.filter(|known| known.renewed == lease.renewed) {
                lease.seen = known.seen;
            }
        }
        self
    }
}

/// All that is known.
pub(super) struct Known<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) reading: &'a Reading,
    pub(super) namespace: &'a str,
    pub(super) now: Timestamp,
    pub(super) at: Instant,
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    /// Delete what nobody owns any more.
    Remove(Remains),
    /// Apply a status to the object of this kind and name that has the uid.
    Status { kind: Kind, name: String, uid: String, status: Status },
    /// Replace the list of hosts.
    Hosts(BTreeMap<String, String>),
}

impl Seen {
    pub(super) fn new(uid: String, generation: i64, status: Option<&Value>) -> Self {
        Self { uid, generation, status: status.and_then(Status::read) }
    }
}

impl Known<'_> {
    /// What is left to write, at most [`WRITES`] of each kind: the list of hosts first, for they wait for it. `seen` finds what the
    /// API server has of an object; statuses begin after that of `last`, so that each has its turn.
    pub(super) fn writes<'s>(
        &self,
        seen: impl Fn(Kind, &str) -> Option<&'s Seen>,
        orphans: &mut Orphans,
        last: Option<&(Kind, String)>,
    ) -> Vec<Write> {
        let at = self.at;
        let wanted = hosts::list(self.snapshot, self.namespace);
        let hosts = (wanted != self.reading.hosts).then_some(Write::Hosts(wanted));
        let remains = orphans.due(garbage::remains(self), at, WRITES).into_iter().map(Write::Remove);
        let unclaimed = orphans.unclaimed(status::unclaimed(self), at);
        let statuses =
            status::wanted(self, &unclaimed).into_iter().filter_map(|(kind, name, uid, wanted)| {
                let seen = seen(kind, &name).filter(|seen| seen.uid == uid)?;
                let status = wanted.after(seen.status.as_ref(), self.now)?;
                Some((kind, name, uid, status))
            });
        let mut statuses: Vec<_> = statuses.collect();
        let is_last = |(kind, name, ..): &(Kind, String, String, Status)| {
            last.is_some_and(|(last_kind, last_name)| (kind, name) == (last_kind, last_name))
        };
        let turn = statuses.iter().position(is_last).map_or(0, |at| at + 1);
        statuses.rotate_left(turn);
        let statuses = statuses.into_iter().take(WRITES).map(|(kind, name, uid, status)| Write::Status {
            kind,
            name,
            uid,
            status,
        });
        hosts.into_iter().chain(remains).chain(statuses).collect()
    }

    /// Whether there is anything of a fabric.
    pub(super) fn is_in_use(&self) -> bool {
        let snapshot = self.snapshot;
        snapshot.fabrics().next().is_some()
            || snapshot.members().next().is_some()
            || snapshot.external_hosts().next().is_some()
            || snapshot.claims().next().is_some()
            || !self.reading.hosts.is_empty()
    }
}
