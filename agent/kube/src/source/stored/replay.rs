//! Stored objects first, those of the server after them: what goes to the consumer, and when.
//!
//! Pure. Nothing that was shown goes before the server's list of its kind is complete and does not have it. A kind that the server
//! refuses counts as known from the file, as one counts that was listed before: a server that has just started refuses what it
//! allows a moment later.

use std::collections::{BTreeMap, BTreeSet};

use super::texts::Texts;
use balancing_core::{
    kinds::{Lacking, ObjectKind},
    objects::{Object, ObjectKey},
    source::{Batch, Change},
};

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// What the server said and nobody was told yet.
    held: BTreeMap<ObjectKey, Change>,
    /// Objects that the consumer has from the file, and the server has not spoken of.
    shown: BTreeSet<ObjectKey>,
    /// Kinds that the consumer knows from the file alone.
    vouched: BTreeSet<ObjectKind>,
    is_over: bool,
}

impl Replay {
    /// The server's lists have gone out.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Something that the consumer has is of the file.
    pub(super) fn stands_in(&self) -> bool {
        !self.vouched.is_empty()
    }

    /// Shows stored objects, as a list that is complete for these kinds and lacks others.
    pub(super) fn show(
        &mut self,
        objects: Vec<Object>,
        kinds: BTreeSet<ObjectKind>,
        lacking: Lacking,
    ) -> Batch {
        self.shown = objects.iter().map(Object::key).collect();
        self.vouched = kinds;
        Batch { changes: objects.into_iter().map(Change::Upsert).collect(), synced: true, lacking }
    }

    /// Takes in what the server says; what goes out of it. `texts`: all that it has, readable or not.
    pub(super) fn take(&mut self, batch: Batch, texts: &Texts) -> Option<Batch> {
        if self.is_over && !self.stands_in() {
            return Some(batch);
        }
        let Batch { changes, synced, lacking } = batch;
        self.held.extend(changes.into_iter().map(|change| (key(&change), change)));
        if !synced {
            return None;
        }
        self.is_over = true;
        let mut changes = std::mem::take(&mut self.held);
        let (lacks, known) = std::mem::take(&mut self.shown)
            .into_iter()
            .filter(|key| !changes.contains_key(key))
            .partition::<BTreeSet<_>, _>(|key| lacking.contains(&ObjectKind::of(key)));
        // A list that is not told completely yet is lacking, so these keep until then.
        self.shown = lacks;
        self.vouched.retain(|kind| lacking.contains(kind));
        let lacking = lacking.difference(&self.vouched).copied().collect();
        let gone = known.into_iter().filter(|key| !texts.contains(key));
        changes.extend(gone.map(|key| (key.clone(), Change::Delete(key))));
        Some(Batch { changes: changes.into_values().collect(), synced, lacking })
    }
}

fn key(change: &Change) -> ObjectKey {
    match change {
        Change::Upsert(object) => object.key(),
        Change::Delete(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Event, Kind, Text};
    use balancing_core::objects::Node;

    fn node(name: &str, uid: &str) -> Object {
        Node { name: name.into(), uid: uid.into(), ..Node::default() }.into()
    }

    fn key_of(name: &str) -> ObjectKey {
        ObjectKey::Node(name.into())
    }

    fn says(changes: Vec<Change>, synced: bool, lacking: &[ObjectKind]) -> Batch {
        Batch { changes, synced, lacking: lacking.iter().copied().collect() }
    }

    fn put(name: &str) -> Change {
        Change::Upsert(node(name, "new"))
    }

    fn text(name: &str) -> Text {
        let text = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
        let text = serde_json::value::RawValue::from_string(text).unwrap();
        Text { kind: Kind::Node, event: Event::Put(text) }
    }

    #[test]
    fn nothing_goes_out_before_the_list_is_complete() {
        let (mut replay, texts) = (Replay::default(), Texts::default());
        assert_eq!(replay.take(says(vec![put("a")], false, &[]), &texts), None);
        let batch = says(vec![put("b")], true, &[]);
        assert_eq!(replay.take(batch, &texts), Some(says(vec![put("a"), put("b")], true, &[])));
        let later = says(vec![Change::Delete(key_of("a"))], true, &[]);
        assert_eq!(replay.take(later.clone(), &texts), Some(later), "from then on all passes");
    }

    #[test]
    fn what_was_stored_stands_in_until_the_list_is_complete() {
        let (mut replay, mut texts) = (Replay::default(), Texts::default());
        assert_eq!(replay.take(says(vec![put("a")], false, &[]), &texts), None);
        let shown = replay.show(
            ["a", "gone", "unread"].map(|name| node(name, "old")).into(),
            [ObjectKind::Node].into(),
            Lacking::new(),
        );
        assert!(shown.synced && shown.changes.len() == 3);
        assert_eq!(
            replay.take(says(vec![put("b")], false, &[]), &texts),
            None,
            "half a list deletes nothing"
        );
        texts.take(text("unread"));
        let batch = replay.take(says(Vec::new(), true, &[]), &texts);
        let wanted = vec![put("a"), put("b"), Change::Delete(key_of("gone"))];
        assert_eq!(batch, Some(says(wanted, true, &[])), "one that cannot be read is not gone");
    }

    #[test]
    fn a_kind_that_is_lacking_keeps_what_was_stored() {
        let (mut replay, texts) = (Replay::default(), Texts::default());
        replay.show(
            ["a", "b"].map(|name| node(name, "old")).into(),
            [ObjectKind::Node].into(),
            Lacking::new(),
        );
        let refused = [ObjectKind::Node, ObjectKind::Pod];
        let told = replay.take(says(vec![put("a")], true, &refused), &texts);
        assert_eq!(told, Some(says(vec![put("a")], true, &[ObjectKind::Pod])), "it is known from the file");
        assert!(replay.stands_in());
        let listed = replay.take(says(vec![put("c")], true, &[]), &texts);
        assert_eq!(listed, Some(says(vec![Change::Delete(key_of("b")), put("c")], true, &[])));
        assert!(!replay.stands_in());
    }
}
