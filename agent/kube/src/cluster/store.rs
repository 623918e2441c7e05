//! The EndpointSlices of ours that the API server has, by policy.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cache::{Cache, Changed, Item},
    slices::{Known, SliceOp, Wanted, plan},
};
use crate::source::Event;

/// Names of others that are remembered.
const TAKEN: usize = 1024;

/// All slices.
#[derive(Debug, Default)]
pub(super) struct Store {
    cache: Cache<Known>,
    /// Names of slices by policy; those of no policy are under the empty name.
    by_policy: BTreeMap<String, BTreeSet<String>>,
    /// Names that objects of others have.
    taken: BTreeSet<String>,
}

impl Store {
    pub(super) fn is_listed(&self) -> bool {
        self.cache.is_listed()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Known> {
        self.cache.get(name)
    }

    /// All policies that have slices, known or not.
    pub(super) fn policies(&self) -> Vec<String> {
        self.by_policy.keys().cloned().collect()
    }

    /// Takes in news; the policies whose slices are not as they were.
    pub(super) fn observe(&mut self, event: Event<Item<Known>>) -> BTreeSet<String> {
        let changed = self.cache.observe(event);
        self.index(changed)
    }

    /// The answer to a read, as [`Cache::read`].
    pub(super) fn read(&mut self, item: Item<Known>, known: u64) -> BTreeSet<String> {
        let changed = self.cache.read(item, known);
        self.index(changed)
    }

    /// The answer to an own write, as [`Cache::put`].
    pub(super) fn put(&mut self, name: String, version: u64, value: Option<Known>) -> BTreeSet<String> {
        let changed = self.cache.put(name, version, value);
        self.index(changed)
    }

    pub(super) fn has_slices(&self, policy: &str) -> bool {
        self.by_policy.contains_key(policy)
    }

    /// Remembers that an object of somebody else has this name. Whatever is forgotten is met again.
    pub(super) fn take_name(&mut self, name: String) {
        if self.taken.len() >= TAKEN {
            self.taken.clear();
        }
        self.taken.insert(name);
    }

    /// The writes that are left to do for a policy, in steps.
    pub(super) fn plan(&self, policy: &str, wanted: Option<&Wanted>) -> Vec<Vec<SliceOp>> {
        let names = self.by_policy.get(policy).into_iter().flatten();
        let known = names.filter_map(|name| Some((name.as_str(), self.cache.get(name)?))).collect();
        plan(wanted, &known, &self.taken)
    }

    fn index(&mut self, changed: Changed<Known>) -> BTreeSet<String> {
        let mut policies = BTreeSet::new();
        for (name, old) in changed {
            if let Some(old) = old {
                let policy = old.slice.owner.policy;
                if let Some(names) = self.by_policy.get_mut(&policy) {
                    names.remove(&name);
                    if names.is_empty() {
                        self.by_policy.remove(&policy);
                    }
                }
                policies.insert(policy);
            }
            if let Some(new) = self.cache.get(&name) {
                let policy = new.slice.owner.policy.clone();
                self.by_policy.entry(policy.clone()).or_default().insert(name);
                policies.insert(policy);
            }
        }
        policies
    }
}
