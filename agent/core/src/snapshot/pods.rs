//! The pods of the cluster, indexed by label pair and by node.
//!
//! Each pod has a slot, and the index holds the numbers of slots: they are small, quick to
//! compare, and say nothing to the outside.

use std::collections::{BTreeMap, BTreeSet};

use crate::objects::{LabelSelector, ObjectRef, Pod};

type Slots = BTreeSet<u32>;

/// All pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    by_name: BTreeMap<ObjectRef, u32>,
    slots: Vec<Option<Pod>>,
    free: Vec<u32>,
    by_label: BTreeMap<String, BTreeMap<String, Slots>>,
    by_node: BTreeMap<String, Slots>,
}

impl Pods {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn get(&self, key: &ObjectRef) -> Option<&Pod> {
        self.at(*self.by_name.get(key)?)
    }

    /// Puts a pod. Returns the pod it replaced, and nothing at all when it is equal to the known
    /// one.
    pub(super) fn put(&mut self, pod: Pod) -> Option<Option<Pod>> {
        let key = ObjectRef { namespace: pod.namespace.clone(), name: pod.name.clone() };
        if self.get(&key) == Some(&pod) {
            return None;
        }
        let old = self.remove(&key);
        let slot = self.free.pop().or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).ok()
        })?;
        for (name, value) in pod.labels.iter() {
            bucket(bucket(&mut self.by_label, name), value).insert(slot);
        }
        bucket(&mut self.by_node, &pod.node).insert(slot);
        self.by_name.insert(key, slot);
        self.slots[slot as usize] = Some(pod);
        Some(old)
    }

    pub(super) fn remove(&mut self, key: &ObjectRef) -> Option<Pod> {
        let slot = self.by_name.remove(key)?;
        let old = self.slots[slot as usize].take()?;
        self.free.push(slot);
        for (name, value) in old.labels.iter() {
            if let Some(values) = self.by_label.get_mut(name) {
                take(values, value, slot);
                if values.is_empty() {
                    self.by_label.remove(name);
                }
            }
        }
        take(&mut self.by_node, &old.node, slot);
        Some(old)
    }

    pub(super) fn on_node<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.by_node.get(node).into_iter().flatten().filter_map(|slot| self.at(*slot))
    }

    /// The pods that match, in no particular order; visits the smallest bucket that must hold
    /// them all.
    pub(super) fn select<'a>(
        &'a self,
        selector: &LabelSelector,
        namespace: Option<&str>,
        node: Option<&str>,
    ) -> Vec<&'a Pod> {
        let wanted = |pod: &&Pod| {
            namespace.is_none_or(|n| pod.namespace == n)
                && node.is_none_or(|n| pod.node == n)
                && selector.matches(&pod.labels)
        };
        let labels = selector.labels.iter().map(|(name, value)| self.by_label.get(name)?.get(value));
        let buckets: Option<Vec<&Slots>> = labels.chain(node.map(|n| self.by_node.get(n))).collect();
        let Some(buckets) = buckets else { return Vec::new() };
        if let Some(smallest) = buckets.into_iter().min_by_key(|slots| slots.len()) {
            return smallest.iter().filter_map(|slot| self.at(*slot)).filter(wanted).collect();
        }
        let start = ObjectRef { namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
        let near =
            self.by_name.range(start..).take_while(|(key, _)| namespace.is_none_or(|n| key.namespace == n));
        near.filter_map(|(_, slot)| self.at(*slot)).filter(wanted).collect()
    }

    fn at(&self, slot: u32) -> Option<&Pod> {
        self.slots.get(slot as usize)?.as_ref()
    }
}

/// The bucket of that name, made when it is missing.
fn bucket<'a, V: Default>(buckets: &'a mut BTreeMap<String, V>, name: &str) -> &'a mut V {
    buckets.entry(name.to_owned()).or_default()
}

fn take(buckets: &mut BTreeMap<String, Slots>, name: &str, slot: u32) {
    if let Some(slots) = buckets.get_mut(name) {
        slots.remove(&slot);
        if slots.is_empty() {
            buckets.remove(name);
        }
    }
}
