//! What the API server has, as far as it was heard of: by watching, and by the answers to own writes.
//!
//! An own write is known at once, while news about it come later and out of date ones may come in between; the
//! resource version tells them apart. It is a number that grows with every change (Kubernetes 1.35, "Resource
//! versions": comparable as integers). Only an etcd that was restored goes back; then what the server has counts.

use std::collections::{BTreeMap, VecDeque};

use crate::source::Event;

/// Deletions that are remembered. The answer to a write comes within seconds, and not after so many others.
const TOMBSTONES: usize = 1024;

/// One object in the news: name, resource version, content.
pub(super) type Item<V> = (String, u64, V);

/// The objects of one kind, by name: an informer cache that learns from own writes, too.
#[derive(Debug)]
pub(super) struct Cache<V> {
    entries: BTreeMap<String, (u64, V)>,
    /// The last deletions, with their versions: an answer to an earlier write does not undo them.
    tombstones: BTreeMap<String, u64>,
    /// Their names from the oldest on.
    buried: VecDeque<String>,
    /// A new list that is not complete yet.
    incoming: BTreeMap<String, (u64, V)>,
    /// The newest version that the source told of; own writes may be ahead of it.
    heard: u64,
    listed: bool,
}

/// A name whose object is new, different or gone, with what it was before.
pub(super) type Changed<V> = Vec<(String, Option<V>)>;

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            buried: VecDeque::new(),
            incoming: BTreeMap::new(),
            heard: 0,
            listed: false,
        }
    }
}

impl<V: PartialEq> Cache<V> {
    /// Whether the complete list has been seen.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.entries.get(name).map(|(_, value)| value)
    }

    /// Takes in news.
    pub(super) fn observe(&mut self, event: Event<Item<V>>) -> Changed<V> {
        match event {
            Event::Put((name, version, value)) => {
                self.heard = self.heard.max(version);
                self.put(name, version, Some(value))
            }
            Event::Gone((name, version, _)) => {
                self.heard = self.heard.max(version);
                self.incoming.remove(&name);
                self.put(name, version, None)
            }
            Event::Begin => {
                self.incoming.clear();
                Vec::new()
            }
            Event::Listed((name, version, value)) => {
                self.incoming.insert(name, (version, value));
                Vec::new()
            }
            Event::End(version) => {
                self.listed = true;
                // What is not a number does not say that anything is newer.
                self.replace(version.parse().unwrap_or(u64::MAX))
            }
        }
    }

    /// The answer to a read that was sent when `known` was the version: an older one says that the server's data went
    /// back.
    pub(super) fn read(&mut self, (name, version, value): Item<V>, known: u64) -> Changed<V> {
        if version < known
            && let Some((entry, _)) = self.entries.get_mut(&name)
        {
            *entry = version;
        }
        self.put(name, version, Some(value))
    }

    /// The answer to an own write or read; without a value the object is gone as of that version.
    pub(super) fn put(&mut self, name: String, version: u64, value: Option<V>) -> Changed<V> {
        let known =
            self.entries.get(&name).map(|(version, _)| *version).max(self.tombstones.get(&name).copied());
        if known.is_some_and(|known| known > version) {
            return Vec::new();
        }
        let old = match value {
            Some(value) => {
                if self.get(&name) == Some(&value) {
                    self.entries.insert(name, (version, value));
                    return Vec::new();
                }
                self.entries.insert(name.clone(), (version, value))
            }
            None => {
                self.bury(name.clone(), version);
                match self.entries.remove(&name) {
                    None => return Vec::new(),
                    old => old,
                }
            }
        };
        vec![(name, old.map(|(_, value)| value))]
    }

    fn bury(&mut self, name: String, version: u64) {
        if self.tombstones.insert(name.clone(), version).is_none() {
            self.buried.push_back(name);
        }
        if self.buried.len() > TOMBSTONES
            && let Some(oldest) = self.buried.pop_front()
        {
            self.tombstones.remove(&oldest);
        }
    }

    /// Puts the complete list in force: it is the truth about everything up to its version, so what was written after that
    /// stays. A list tells what is in force when it is asked for, and so is at least as new as what had been heard by then;
    /// where it is not, the server's data went back, and nothing that is known is newer.
    fn replace(&mut self, list: u64) -> Changed<V> {
        let went_back = list < self.heard;
        self.heard = list;
        let incoming = std::mem::take(&mut self.incoming);
        let is_newer = |version: u64| version > list && !went_back;
        self.tombstones.retain(|_, version| is_newer(*version));
        self.buried.retain(|name| self.tombstones.contains_key(name));
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(|(name, (version, _))| !is_newer(*version) && !incoming.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let removed = |name: String| {
            let old = self.entries.remove(&name).map(|(_, value)| value);
            (name, old)
        };
        let mut changed: Changed<V> = gone.into_iter().map(removed).collect();
        for (name, (version, value)) in incoming {
            if let Some((known, _)) = self.entries.get_mut(&name)
                && !is_newer(*known)
            {
                *known = version;
            }
            changed.extend(self.put(name, version, Some(value)));
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
        assert!(cache.get("a").is_none() && cache.entries.is_empty());
        assert!(cache.put("a".to_owned(), 6, Some("mine")).is_empty(), "an answer that was on its way");
        assert_eq!(cache.get("a"), None);
        cache.put("b".to_owned(), 9, Some("again"));
        cache.observe(Event::Gone(item("b", 8, "first")));
        assert_eq!(cache.get("b"), Some(&"again"), "the deletion is older");
    }

    #[test]
    fn deletions_are_not_remembered_for_ever() {
        let mut cache = Cache::default();
        for number in 0..3 * TOMBSTONES as u64 {
            cache.observe(Event::Put(item(&format!("{number}"), 2 * number, "x")));
            cache.observe(Event::Gone(item(&format!("{number}"), 2 * number + 1, "x")));
        }
        assert!(
            cache.entries.is_empty()
                && cache.tombstones.len() == TOMBSTONES
                && cache.buried.len() == TOMBSTONES
        );
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
        // The list is older than what was heard, or versions have caught up and the objects' own ones tell.
        for list in ["40", "1000"] {
            let mut cache = Cache::default();
            cache.observe(Event::Put(item("a", 90, "new")));
            cache.observe(Event::Put(item("lost", 80, "x")));
            cache.observe(Event::Gone(item("back", 85, "y")));
            cache.observe(Event::Begin);
            cache.observe(Event::Listed(item("a", 30, "old")));
            cache.observe(Event::Listed(item("back", 31, "y")));
            let changed = cache.observe(Event::End(list.to_owned()));
            let lost = ("lost".to_owned(), Some("x"));
            assert_eq!(changed, [lost, ("a".to_owned(), Some("new")), ("back".to_owned(), None)], "{list}");
            assert_eq!(cache.get("a"), Some(&"old"));
        }
    }

    #[test]
    fn a_list_is_not_taken_for_old_because_of_an_own_write_meanwhile() {
        let mut cache = Cache::default();
        cache.observe(Event::Put(item("a", 90, "x")));
        cache.put("mine".to_owned(), 105, Some("new"));
        cache.observe(Event::Begin);
        cache.observe(Event::Listed(item("a", 90, "x")));
        assert!(cache.observe(Event::End("100".to_owned())).is_empty());
        assert_eq!(cache.get("mine"), Some(&"new"));
    }

    #[test]
    fn a_read_that_is_older_than_what_was_sent_counts() {
        let mut cache = Cache::default();
        cache.observe(Event::Put(item("a", 41, "mine")));
        assert_eq!(cache.read(item("a", 35, "older"), 41), [("a".to_owned(), Some("mine"))]);
        assert!(cache.read(item("a", 34, "late"), 20).is_empty(), "an answer to an earlier question");
    }
}
