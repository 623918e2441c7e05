//! Since when something is as it should not be, so that nothing is done before its time and nothing is done all the time.
//!
//! It reads no clock; callers say what time it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::Remains;
use crate::source::Kind;

/// Time between two attempts to remove one object, so that one which cannot be removed keeps no other from its turn.
const AGAIN: Duration = Duration::from_secs(30);
/// So long a claim may be heard of later than the TunnelNode with its address.
const GRACE_OF_CLAIM: Duration = Duration::from_secs(5);

/// What shall go, and what lacks a claim; since when.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Orphans {
    rows: BTreeMap<(Kind, String, String), Row>,
    /// By the uid of the TunnelNode.
    unclaimed: BTreeMap<String, Instant>,
    asked: Option<Instant>,
}

#[derive(Debug)]
struct Row {
    since: Instant,
    grace: Duration,
    tried: Option<Instant>,
}

impl Row {
    fn due(&self) -> Instant {
        let end = self.since + self.grace;
        self.tried.map_or(end, |tried| end.max(tried + AGAIN))
    }
}

impl Orphans {
    /// Takes in what shall go; what is due now, at most `room`, which counts as tried. Whatever has an owner again begins anew.
    pub(super) fn due(&mut self, remains: Vec<Remains>, now: Instant, room: usize) -> Vec<Remains> {
        let mut before = std::mem::take(&mut self.rows);
        self.asked = Some(now);
        let mut due = Vec::new();
        for it in remains {
            let key = (it.kind, it.name.clone(), it.uid.clone());
            let known = before.remove(&key);
            let (since, tried) = known.map_or((now, None), |row| (row.since, row.tried));
            let mut row = Row { since, grace: it.grace(), tried };
            if row.due() <= now && due.len() < room {
                row.tried = Some(now);
                due.push(it);
            }
            self.rows.insert(key, row);
        }
        due
    }

    /// Takes in the TunnelNodes that have an address without a claim, by uid; those that have had it for long enough.
    pub(super) fn unclaimed(&mut self, uids: BTreeSet<String>, now: Instant) -> BTreeSet<String> {
        let since = uids.into_iter().map(|uid| {
            let since = self.unclaimed.get(&uid).copied().unwrap_or(now);
            (uid, since)
        });
        self.unclaimed = since.collect();
        let long = self.unclaimed.iter().filter(|(_, since)| now.duration_since(**since) >= GRACE_OF_CLAIM);
        long.map(|(uid, _)| uid.clone()).collect()
    }

    /// When something becomes due that was not when this was asked last.
    pub(in crate::cluster) fn next_due(&self) -> Option<Instant> {
        let ends = self.rows.values().map(Row::due);
        let ends = ends.chain(self.unclaimed.values().map(|since| *since + GRACE_OF_CLAIM));
        ends.filter(|end| self.asked.is_none_or(|asked| *end > asked)).min()
    }
}
