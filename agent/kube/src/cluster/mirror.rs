//! What the API server has, as far as it was heard of: by watching, and by the answers to own writes.
//!
//! An own write is known at once, while news about it come later and out of date ones may come in between; the
//! resource version tells them apart. It is a number that grows with every change (Kubernetes 1.35, "Resource
//! versions": comparable as integers).

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

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
pub(super) struct Mirror<V> {
    entries: BTreeMap<String, Entry<V>>,
    /// A new list that is not complete yet.
    incoming: BTreeMap<String, Entry<V>>,
    listed: bool,
}

/// A name whose object is new, different or gone, with what it was before.
pub(super) type Changed<V> = Vec<(String, Option<V>)>;

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), incoming: BTreeMap::new(), listed: false }
    }
}

impl<V: PartialEq> Mirror<V> {
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
            Event::Apply((name, version, value)) => self.put(name, version, Some(value)),
            Event::Delete((name, version, _)) => {
                let changed = self.put(name.clone(), version, None);
                // Nothing older can come after this, so the memory of it may go.
                if self.get(&name).is_none() {
                    self.entries.remove(&name);
                }
                changed
            }
            Event::Init => {
                self.incoming.clear();
                Vec::new()
            }
            Event::InitApply((name, version, value)) => {
                self.incoming.insert(name, Entry { version, value: Some(value) });
                Vec::new()
            }
            Event::InitDone => {
                self.listed = true;
                self.replace()
            }
        }
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

    /// Puts the complete list in force. What was written after the list was made stays.
    fn replace(&mut self) -> Changed<V> {
        let incoming = std::mem::take(&mut self.incoming);
        let gone: Vec<String> =
            self.entries.keys().filter(|name| !incoming.contains_key(*name)).cloned().collect();
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
        let mut mirror = Mirror::default();
        mirror.observe(Event::Apply(item("a", 5, "old")));
        mirror.put("a".to_owned(), 9, Some("mine"));
        assert!(mirror.observe(Event::Apply(item("a", 7, "between"))).is_empty());
        assert_eq!(mirror.get("a"), Some(&"mine"));
        assert!(mirror.observe(Event::Apply(item("a", 9, "mine"))).is_empty(), "the echo is no change");
        assert_eq!(mirror.observe(Event::Apply(item("a", 10, "theirs"))), [("a".to_owned(), Some("mine"))]);
    }

    #[test]
    fn what_was_deleted_stays_deleted() {
        let mut mirror = Mirror::default();
        mirror.observe(Event::Apply(item("a", 5, "old")));
        assert_eq!(mirror.put("a".to_owned(), 6, None), [("a".to_owned(), Some("old"))]);
        assert!(mirror.observe(Event::Apply(item("a", 5, "old"))).is_empty());
        assert_eq!(mirror.get("a"), None, "news from before");
        mirror.observe(Event::Delete(item("a", 7, "old")));
        assert!(mirror.get("a").is_none() && mirror.entries.is_empty(), "nothing is remembered for ever");
        mirror.put("b".to_owned(), 9, Some("again"));
        mirror.observe(Event::Delete(item("b", 8, "first")));
        assert_eq!(mirror.get("b"), Some(&"again"), "the deletion is older");
    }

    #[test]
    fn a_new_list_replaces_everything_but_newer_writes() {
        let mut mirror = Mirror::default();
        assert!(!mirror.is_listed());
        mirror.observe(Event::Apply(item("gone", 1, "x")));
        mirror.put("mine".to_owned(), 9, Some("new"));
        mirror.observe(Event::Init);
        mirror.observe(Event::InitApply(item("mine", 3, "old")));
        mirror.observe(Event::InitApply(item("other", 4, "y")));
        let changed = mirror.observe(Event::InitDone);
        assert_eq!(changed, [("gone".to_owned(), Some("x")), ("other".to_owned(), None)]);
        assert!(mirror.is_listed());
        assert_eq!((mirror.get("mine"), mirror.get("gone")), (Some(&"new"), None));
    }
}
