//! What an operator must know of the fabrics, for Events: who is in trouble, not what happened. Status says the same, of each object.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Gone, Known, Remains, pool, status};
use balancing_core::objects::TunnelFabric;

/// So long a removal is news, and how many of them are.
const NEWS: Duration = Duration::from_secs(300);
const REMOVALS: usize = 20;
/// Members that are named.
const NAMES: usize = 5;

/// What is wrong with fabrics: by name, uid and reason, in words.
pub(in crate::cluster) type News = BTreeMap<(String, String, &'static str), String>;

/// What was taken from members that had no right to it, lately.
#[derive(Debug, Default)]
pub(in crate::cluster) struct TakenBack(VecDeque<(Instant, String, String)>);

impl TakenBack {
    /// Notes a removal.
    pub(in crate::cluster) fn note(&mut self, remains: &Remains, now: Instant) {
        if matches!(
            remains.why,
            Gone::Claimed { .. } | Gone::UnderlayOf { .. } | Gone::Surplus(_) | Gone::Mac
        ) {
            let owner = &remains.owner;
            let (kind, name) = (remains.kind.name(), &remains.name);
            let text =
                format!("{kind} {name} of {} {} is deleted: {}", owner.kind.kind(), owner.name, remains.why);
            self.0.truncate(REMOVALS - 1);
            self.0.push_front((now, remains.fabric.clone(), text));
        }
    }

    /// The latest one of a fabric.
    fn latest(&self, fabric: &str, now: Instant) -> Option<String> {
        let (_, _, text) = self.0.iter().find(|(at, of, _)| of == fabric && now < *at + NEWS)?;
        Some(format!("{text}; whoever wrote it may have the token of that member"))
    }
}

/// What is wrong now.
pub(in crate::cluster) fn news(known: &Known<'_>, taken_back: &TakenBack, now: Instant) -> News {
    let conflicted = status::conflicted_members(known);
    let of = |fabric: &TunnelFabric| {
        let spec = fabric.spec.as_ref().ok();
        let mut said: Vec<(&'static str, Option<String>)> = vec![
            ("PoolExhausted", spec.and_then(|spec| pool::exhausted(known, spec))),
            ("PoolNearlyFull", spec.and_then(|spec| pool::nearly_full(known, spec))),
            ("MemberConflicted", conflicted.get(fabric.name.as_str()).map(|names| in_conflict(names))),
            ("AddressTakenBack", taken_back.latest(&fabric.name, now)),
        ];
        said.extend(status::refused(known, fabric).map(|(reason, message)| (reason, Some(message))));
        let key = |reason| (fabric.name.clone(), fabric.uid.clone(), reason);
        said.into_iter().filter_map(move |(reason, text)| Some((key(reason), text?))).collect::<Vec<_>>()
    };
    known.snapshot.fabrics().flat_map(of).collect()
}

fn in_conflict(names: &[&str]) -> String {
    let named = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("of TunnelNode {named}{rest} an address belongs to another one: see their condition Conflicted")
}
