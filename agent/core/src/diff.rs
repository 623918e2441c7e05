//! The smallest list of operations that makes the tables as desired.
//!
//! It only compares; it does not know whether an operation will succeed. Whoever applies the
//! operations keeps `current` true.

use std::collections::BTreeMap;

use balancing_abi::model::{Entry, FrontendKey};

/// One change of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The entry replaces whatever the frontend had, at once.
    Publish(FrontendKey, Entry),
    /// The frontend has no entry any more.
    Remove(FrontendKey),
}

/// Compares the frontends named in `desired` (`None` = no entry) with `current`. Frontends that
/// `desired` does not name are left alone. Removals come first, because they make room in tables
/// of a fixed size; then both in the order of the keys.
#[must_use]
pub fn diff(
    desired: &BTreeMap<FrontendKey, Option<Entry>>,
    current: &BTreeMap<FrontendKey, Entry>,
) -> Vec<Op> {
    let unwanted = desired.iter().filter(|(key, entry)| entry.is_none() && current.contains_key(key));
    let removals = unwanted.map(|(key, _)| Op::Remove(*key));
    let wanted = desired.iter().filter_map(|(key, entry)| Some((key, entry.as_ref()?)));
    let new = wanted.filter(|(key, entry)| current.get(key) != Some(*entry));
    removals.chain(new.map(|(key, entry)| Op::Publish(*key, entry.clone()))).collect()
}

#[cfg(test)]
mod tests;
