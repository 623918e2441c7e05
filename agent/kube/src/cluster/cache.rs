//! What the API server has, as far as it was heard of: by watching, and by the answers to own writes.
//!
//! An own write is known at once, while news about it come later and out of date ones may come in between; the
//! resource version tells them apart. It is a number that grows with every change (Kubernetes 1.35, "Resource
//! versions": comparable as integers). Only an etcd that was restored goes back; then what the server has counts.

use std::collections::BTreeMap;

use crate::source::Event;

/// An object at one version; `None` = it is known to be gone.
#[derive(Debug)]
struct Entry<V> {
    version: u64,
    value: Option<V>,
}

/// One object in the news: name, resource version, content.
pub(super) type Item<V> = (String, u64, V);

/// The objects of one kind, by name.
#[derive(Debug)]
pub(super) struct Cache<V> {
    entries: BTreeMap<String, Entry<V>>,
    /// A new list that is not complete yet.
    incoming: BTreeMap<String, Entry<V>>,
    /// The newest version that was known when that list began.
    before: u64,
    listed: bool,
}

/// A name whose object is new, different or gone, with what it was before.
pub(super) type Changed<V> = Vec<(String, Option<V>)>;

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), incoming: BTreeMap::new(), before: 0, listed: false }
    }
}

impl<V: PartialEq> Cache<V> {
    /// Whether the complete list has been seen.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.entries.get(name)?.value.as_ref()
    }

    /// Takes in news.
    pub(super) fn observe(&mut self, event: Event<Item<V>>) -> Changed<V> {
        match event {
            Event::Put((name, version, value)) => self.put(name, version, Some(value)),
            Event::Gone((name, version, _)) => {
                self.incoming.remove(&name);
                let changed = self.put(name.clone(), version, None);
                // Nothing older can come after this, so the memory of it may go.
                if self.get(&name).is_none() {
                    self.entries.remove(&name);
                }
                changed
            }
            Event::Begin => {
                self.incoming.clear();
                self.before = self.entries.values().map(|entry| entry.version).max().unwrap_or(0);
                Vec::new()
            }
            Event::Listed((name, version, value)) => {
                self.incoming.insert(name, Entry { version, value: Some(value) });
                Vec::new()
            }
            Event::End(version) => {
                self.listed = true;
                // What is not a number does not say that anything is newer.
                let version = version.parse().unwrap_or(u64::MAX);
                // A list tells what is in force when it is asked for, so it is as new as all that was known then.
                if version < self.before {
                    self.forget_versions();
                }
                self.replace(version)
            }
        }
    }

    /// The answer to a read that was sent when `known` was the version: an older one says that the server's data went
    /// back.
    pub(super) fn read(&mut self, (name, version, value): Item<V>, known: u64) -> Changed<V> {
        if version < known
            && let Some(entry) = self.entries.get_mut(&name)
        {
            entry.version = version;
        }
        self.put(name, version, Some(value))
    }

    fn forget_versions(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.version = 0);
    }

    /// The answer to an own write or read; without a value the object is gone as of that version.
    pub(super) fn put(&mut self, name: String, version: u64, value: Option<V>) -> Changed<V> {
        let old = self.entries.get(&name);
        let known = old.and_then(|entry| entry.value.as_ref());
        if old.is_some_and(|old| old.version > version) {
            return Vec::new();
        }
        let same = known == value.as_ref();
        let old = self.entries.insert(name.clone(), Entry { version, value });
        if same { Vec::new() } else { vec![(name, old.and_then(|old| old.value))] }
    }

    /// Puts the complete list of a version in force. What was written after that stays.
    fn replace(&mut self, list: u64) -> Changed<V> {
        let incoming = std::mem::take(&mut self.incoming);
        let is_gone =
            |(name, entry): &(&String, &Entry<V>)| entry.version <= list && !incoming.contains_key(*name);
        let gone: Vec<String> = self.entries.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
        let mut changed = Changed::new();
        for name in gone {
            let old = self.entries.remove(&name).and_then(|entry| entry.value);
            if old.is_some() {
                changed.push((name, old));
            }
        }
        for (name, entry) in incoming {
            changed.extend(self.put(name, entry.version, entry.value));
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, version: u64, value: &'static str) -> Item<&'static str> {
        (name.to_owned(), version, value)
    }

    #[test]
    fn old_news_do_not_undo_an_own_write() {
        let mut cache = Cache::default();
        cache.observe(Event::Put(item("a", 5, "old")));
        cache.put("a".to_owned(), 9, Some("mine"));
        assert!(cache.observe(Event::Put(item("a", 7, "between"))).is_empty());
        assert_eq!(cache.get("a"), Some(&"mine"));
        assert!(cache.observe(Event::Put(item("a", 9, "mine"))).is_empty(), "the echo is no change");
        assert_eq!(cache.observe(Event::Put(item("a", 10, "theirs"))), [("a".to_owned(), Some("mine"))]);
    }

    #[test]
    fn what_was_deleted_stays_deleted() {
        let mut cache = Cache::default();
        cache.observe(Event::Put(item("a", 5, "old")));
        assert_eq!(cache.put("a".to_owned(), 6, None), [("a".to_owned(), Some("old"))]);
        assert!(cache.observe(Event::Put(item("a", 5, "old"))).is_empty());
        assert_eq!(cache.get("a"), None, "news from before");
        cache.observe(Event::Gone(item("a", 7, "old")));
        assert!(cache.get("a").is_none() && cache.entries.is_empty(), "nothing is remembered for ever");
        cache.put("b".to_owned(), 9, Some("again"));
        cache.observe(Event::Gone(item("b", 8, "first")));
        assert_eq!(cache.get("b"), Some(&"again"), "the deletion is older");
    }

    #[test]
    fn a_new_list_replaces_everything_but_newer_writes() {
        let mut cache = Cache::default();
        assert!(!cache.is_listed());
        cache.observe(Event::Put(item("gone", 1, "x")));
        cache.observe(Event::Begin);
        cache.put("mine".to_owned(), 9, Some("new"));
        cache.put("created".to_owned(), 10, Some("new"));
        cache.observe(Event::Listed(item("mine", 3, "old")));
        cache.observe(Event::Listed(item("other", 4, "y")));
        cache.observe(Event::Listed(item("late", 4, "z")));
        cache.observe(Event::Gone(item("late", 5, "z")));
        let changed = cache.observe(Event::End("6".to_owned()));
        assert_eq!(changed, [("gone".to_owned(), Some("x")), ("other".to_owned(), None)]);
        assert!(cache.is_listed());
        let found = ["mine", "created", "gone", "late"].map(|name| cache.get(name).copied());
        assert_eq!(found, [Some("new"), Some("new"), None, None]);
    }

    #[test]
    fn what_the_server_has_counts_when_its_data_went_back() {
        let mut cache = Cache::default();
        cache.observe(Event::Put(item("a", 90, "new")));
        cache.observe(Event::Put(item("lost", 80, "x")));
        cache.observe(Event::Begin);
        cache.observe(Event::Listed(item("a", 30, "old")));
        let changed = cache.observe(Event::End("40".to_owned()));
        assert_eq!(changed, [("lost".to_owned(), Some("x")), ("a".to_owned(), Some("new"))]);
        assert_eq!((cache.get("a"), cache.get("lost")), (Some(&"old"), None));
        assert_eq!(cache.put("a".to_owned(), 41, Some("mine")).len(), 1, "later writes count from there");
        // The same by a read, which may be what tells first.
        assert_eq!(cache.read(item("a", 35, "older"), 41), [("a".to_owned(), Some("mine"))]);
        assert!(cache.read(item("a", 34, "late"), 20).is_empty(), "an answer to an earlier question");
    }
}
