//! Signals of several watches → batches.
//!
//! It knows the keys of what exists, so that a list tells what is gone, and the changes that wait to be taken. It
//! keeps no object that has been taken.

use std::collections::{BTreeMap, HashMap};

use super::{
    kind::Kind,
    read::{Content, Reading},
};
use balancing_core::{
    objects::ObjectKey,
    source::{Batch, Change},
};

/// Changes in one batch. As many may wait, and a page more.
const BATCH: usize = 4096;

/// Keys that exist and changes that wait.
#[derive(Debug)]
pub(super) struct Merge {
    known: BTreeMap<Kind, Known>,
    pending: BTreeMap<ObjectKey, Change>,
    /// A synced batch has been taken.
    announced: bool,
}

/// The objects of one kind that exist.
#[derive(Debug, Default)]
struct Known {
    /// With the list that had them last.
    keys: HashMap<ObjectKey, u64>,
    /// Number of the newest list.
    list: u64,
    /// A list has been complete.
    listed: bool,
}

impl Merge {
    pub(super) fn new(kinds: impl Iterator<Item = Kind>) -> Self {
        Self {
            known: kinds.map(|kind| (kind, Known::default())).collect(),
            pending: BTreeMap::new(),
            announced: false,
        }
    }

    /// Takes in a page. When it ends a list, the keys of what is gone are returned.
    pub(super) fn page(
        &mut self,
        kind: Kind,
        first: bool,
        last: bool,
        objects: Vec<Reading>,
    ) -> Vec<ObjectKey> {
        if first {
            self.known.entry(kind).or_default().list += 1;
        }
        for reading in objects {
            self.change(kind, reading);
        }
        if !last {
            return Vec::new();
        }
        let known = self.known.entry(kind).or_default();
        known.listed = true;
        let newest = known.list;
        let gone: Vec<_> = known.keys.extract_if(|_, list| *list != newest).map(|(key, _)| key).collect();
        for key in &gone {
            self.pending.insert(key.clone(), Change::Delete(key.clone()));
        }
        gone
    }

    /// Takes in an object.
    pub(super) fn change(&mut self, kind: Kind, Reading { key, content, .. }: Reading) {
        let known = self.known.entry(kind).or_default();
        match content {
            Content::Object(object) => {
                known.keys.insert(key.clone(), known.list);
                self.pending.insert(key, Change::Upsert(object));
            }
            Content::Unreadable => {
                known.keys.insert(key, known.list);
            }
            Content::Ignored => self.gone(kind, key),
        }
    }

    /// Takes in that an object is gone.
    pub(super) fn gone(&mut self, kind: Kind, key: ObjectKey) {
        if self.known.entry(kind).or_default().keys.remove(&key).is_some() {
            self.pending.insert(key.clone(), Change::Delete(key));
        }
    }

    /// Every kind has delivered a complete list.
    pub(super) fn is_synced(&self) -> bool {
        self.known.values().all(|known| known.listed)
    }

    /// More can be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < BATCH
    }

    /// There is something to take.
    pub(super) fn is_due(&self) -> bool {
        !self.pending.is_empty() || self.is_synced() && !self.announced
    }

    /// What waits, up to the size of a batch.
    pub(super) fn take(&mut self) -> Batch {
        let rest = match self.pending.keys().nth(BATCH).cloned() {
            Some(key) => self.pending.split_off(&key),
            None => BTreeMap::new(),
        };
        let changes = std::mem::replace(&mut self.pending, rest).into_values().collect();
        self.announced |= self.is_synced() && self.pending.is_empty();
        Batch { changes, synced: self.announced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancing_core::objects::{Node, Object};

    fn key(name: &str) -> ObjectKey {
        ObjectKey::Node(name.to_owned())
    }

    fn reading(name: &str, content: Content) -> Reading {
        Reading { key: key(name), version: String::new(), content, problems: Vec::new(), text: None }
    }

    fn node(name: &str) -> Reading {
        reading(name, Content::Object(Object::Node(Node { name: name.to_owned(), ..Node::default() })))
    }

    fn merge() -> Merge {
        Merge::new([Kind::Node, Kind::Pod].into_iter())
    }

    /// The batch in short: `+` or `-` and the name.
    fn taken(merge: &mut Merge) -> (String, bool) {
        let Batch { changes, synced } = merge.take();
        let short = changes.iter().map(|change| match change {
            Change::Upsert(Object::Node(node)) => format!("+{}", node.name),
            Change::Delete(ObjectKey::Node(name)) => format!("-{name}"),
            other => panic!("{other:?}"),
        });
        (short.collect::<Vec<_>>().join(" "), synced)
    }

    #[test]
    fn a_list_deletes_exactly_what_it_does_not_have() {
        let mut merge = merge();
        merge.page(Kind::Pod, true, true, Vec::new());
        merge.page(Kind::Node, true, true, vec![node("a"), node("b"), node("c")]);
        assert_eq!(taken(&mut merge), ("+a +b +c".to_owned(), true));
        merge.page(Kind::Node, true, false, vec![node("a")]);
        assert_eq!(taken(&mut merge), ("+a".to_owned(), true), "nothing is gone before the list ends");
        let gone = merge.page(Kind::Node, false, true, vec![reading("c", Content::Unreadable)]);
        assert_eq!(gone, [key("b")]);
        assert_eq!(taken(&mut merge), ("-b".to_owned(), true), "an unreadable object is not gone");
    }

    #[test]
    fn a_list_that_did_not_end_does_not_count() {
        let mut merge = merge();
        merge.page(Kind::Node, true, true, vec![node("a"), node("b")]);
        merge.page(Kind::Node, true, false, vec![node("a")]);
        let gone = merge.page(Kind::Node, true, true, vec![node("b")]);
        assert_eq!(gone, [key("a")]);
    }

    #[test]
    fn an_object_changes_once_per_batch_in_the_order_of_keys() {
        let mut merge = merge();
        for name in ["c", "a", "b", "a"] {
            merge.change(Kind::Node, node(name));
        }
        merge.gone(Kind::Node, key("b"));
        merge.gone(Kind::Node, key("c"));
        merge.change(Kind::Node, node("c"));
        assert_eq!(taken(&mut merge), ("+a -b +c".to_owned(), false));
        assert!(!merge.is_due());
        merge.gone(Kind::Node, key("never known"));
        merge.change(Kind::Node, reading("a", Content::Ignored));
        assert_eq!(taken(&mut merge).0, "-a");
    }

    #[test]
    fn synced_is_said_once_everything_is_listed_even_if_there_is_nothing() {
        let mut merge = merge();
        merge.page(Kind::Node, true, false, Vec::new());
        merge.page(Kind::Pod, true, true, Vec::new());
        assert!(!merge.is_due() && !merge.is_synced());
        merge.page(Kind::Node, false, true, Vec::new());
        assert!(merge.is_due() && merge.is_synced());
        assert_eq!(taken(&mut merge), (String::new(), true));
        assert!(!merge.is_due());
    }

    #[test]
    fn batches_are_bounded_and_synced_with_the_last_of_the_lists() {
        let mut merge = merge();
        let names: Vec<_> = (0..=2 * BATCH).map(|i| format!("{i:05}")).collect();
        merge.page(Kind::Pod, true, true, Vec::new());
        merge.page(Kind::Node, true, true, names.iter().map(|name| node(name)).collect());
        assert!(!merge.has_room());
        let batches: Vec<_> = std::iter::from_fn(|| merge.is_due().then(|| merge.take())).collect();
        let sizes: Vec<_> = batches.iter().map(|batch| (batch.changes.len(), batch.synced)).collect();
        assert_eq!(sizes, [(BATCH, false), (BATCH, false), (1, true)]);
        assert!(merge.has_room());
        let gone = merge.page(Kind::Node, true, true, Vec::new());
        assert_eq!(gone.len(), names.len());
    }
}
