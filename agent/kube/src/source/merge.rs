//! Signals of several watches → batches.
//!
//! It knows the keys of what exists, so that a list tells what is gone, the changes that wait to be taken, and which kinds
//! the consumer will have to do without. It keeps no object that has been taken.

use std::collections::{BTreeMap, HashMap};

use super::{
    failure::Failure,
    kind::Kind,
    read::{Content, Reading},
};
use balancing_abi::model::PolicyKind;
use balancing_core::{
    kinds::{Lacking, ObjectKind},
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
    /// What the newest synced batch said is lacking.
    told: Option<Lacking>,
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
    /// The server refuses this kind, and answers as such.
    refused: bool,
}

impl Merge {
    pub(super) fn new(kinds: impl Iterator<Item = Kind>) -> Self {
        Self {
            known: kinds.map(|kind| (kind, Known::default())).collect(),
            pending: BTreeMap::new(),
            told: None,
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

    /// Takes in that a list or watch failed. A kind that was refused, and of which the consumer was told that it is
    /// lacking, remains so until it is listed, whatever else goes wrong meanwhile.
    pub(super) fn failed(&mut self, kind: Kind, failure: &Failure) {
        let refused = match failure {
            Failure::Missing(_) | Failure::Kind(_) => true,
            Failure::Server(..) => self.told.is_some(),
        };
        self.known.entry(kind).or_default().refused = refused;
    }

    /// The kinds that have never been listed, once nothing but refusals is missing.
    fn lacking(&self) -> Option<Lacking> {
        let missing = || self.known.iter().filter(|(_, known)| !known.listed);
        missing()
            .all(|(_, known)| known.refused)
            .then(|| missing().map(|(kind, _)| object_kind(*kind)).collect())
    }

    /// Every kind has delivered a complete list; of the fabric's, those that the server does not refuse.
    pub(super) fn is_synced(&self) -> bool {
        let may_lack = |kind: Kind| object_kind(kind).is_fabric();
        self.known.iter().all(|(kind, known)| known.listed || known.refused && may_lack(*kind))
    }

    /// More can be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < BATCH
    }

    /// There is something to take.
    pub(super) fn is_due(&self) -> bool {
        !self.pending.is_empty() || self.lacking().is_some_and(|lacking| self.told != Some(lacking))
    }

    /// What waits, up to the size of a batch.
    pub(super) fn take(&mut self) -> Batch {
        let rest = match self.pending.keys().nth(BATCH).cloned() {
            Some(key) => self.pending.split_off(&key),
            None => BTreeMap::new(),
        };
        let changes = std::mem::replace(&mut self.pending, rest).into_values().collect();
        // What is listed but not taken yet is still lacking to the consumer.
        if self.pending.is_empty()
            && let Some(lacking) = self.lacking()
        {
            self.told = Some(lacking);
        }
        Batch { changes, synced: self.told.is_some(), lacking: self.told.clone().unwrap_or_default() }
    }
}

pub(super) fn object_kind(kind: Kind) -> ObjectKind {
    match kind {
        Kind::LocalRedirectPolicy => ObjectKind::Policy(PolicyKind::LocalRedirect),
        Kind::BalancingPolicy => ObjectKind::Policy(PolicyKind::Balancing),
        Kind::Service => ObjectKind::Service,
        Kind::Node => ObjectKind::Node,
        Kind::Pod => ObjectKind::Pod,
        Kind::EndpointSlice => ObjectKind::EndpointSlice,
        Kind::TunnelFabric => ObjectKind::Fabric,
        Kind::TunnelNode => ObjectKind::Member,
        Kind::ExternalHost => ObjectKind::ExternalHost,
        Kind::TunnelAddressClaim => ObjectKind::Claim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::failure::Trouble;
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
        let Batch { changes, synced, .. } = merge.take();
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

    fn lacking(merge: &mut Merge) -> Option<String> {
        let batch = merge.is_due().then(|| merge.take())?;
        let kinds: Vec<_> = batch.lacking.iter().map(ToString::to_string).collect();
        Some(if batch.synced { kinds.join(" ") } else { "not synced".to_owned() })
    }

    fn refused() -> Failure {
        Failure::Kind("not allowed".to_owned())
    }

    fn away() -> Failure {
        Failure::Server(Trouble::Unreachable, "Connection refused".to_owned())
    }

    #[test]
    fn a_kind_that_is_refused_is_lacking_until_it_is_listed() {
        let mut merge = merge();
        merge.failed(Kind::Pod, &refused());
        assert_eq!(lacking(&mut merge), None, "the Nodes may come any moment");
        merge.page(Kind::Node, true, true, Vec::new());
        assert_eq!(lacking(&mut merge).as_deref(), Some("Pods"));
        assert!(!merge.is_synced() && lacking(&mut merge).is_none());
        merge.failed(Kind::Pod, &away());
        assert_eq!(lacking(&mut merge), None, "what was said is not taken back");
        merge.page(Kind::Pod, true, false, Vec::new());
        assert_eq!(lacking(&mut merge), None, "a list that has not ended is none");
        merge.page(Kind::Pod, false, true, Vec::new());
        assert_eq!(lacking(&mut merge).as_deref(), Some(""), "it is told even if there is nothing");
        for failure in [refused(), Failure::Missing(String::new()), away()] {
            merge.failed(Kind::Pod, &failure);
            assert_eq!(lacking(&mut merge), None, "once listed, its last known state stays");
        }
        assert!(merge.is_synced());
    }

    #[test]
    fn a_cluster_without_the_fabric_is_known_completely() {
        let mut merge = Merge::new([Kind::Pod, Kind::TunnelNode].into_iter());
        merge.page(Kind::Pod, true, true, Vec::new());
        assert!(!merge.is_synced(), "the members may come any moment");
        merge.failed(Kind::TunnelNode, &Failure::Missing(String::new()));
        let batch = merge.take();
        assert!(merge.is_synced() && batch.is_complete() && batch.lacking.contains(&ObjectKind::Member));
    }

    #[test]
    fn a_server_that_is_away_lacks_nothing() {
        let mut merge = merge();
        merge.failed(Kind::Pod, &refused());
        merge.failed(Kind::Pod, &away());
        merge.page(Kind::Node, true, true, vec![node("a")]);
        assert_eq!(lacking(&mut merge).as_deref(), Some("not synced"));
        merge.failed(Kind::Pod, &Failure::Missing(String::new()));
        assert_eq!(lacking(&mut merge).as_deref(), Some("Pods"));
    }

    #[test]
    fn everything_may_be_lacking() {
        let mut merge = merge();
        merge.failed(Kind::Pod, &refused());
        merge.failed(Kind::Node, &refused());
        assert_eq!(lacking(&mut merge).as_deref(), Some("Nodes Pods"));
    }

    #[test]
    fn a_kind_is_lacking_until_the_last_batch_of_its_list() {
        let mut merge = merge();
        merge.failed(Kind::Node, &refused());
        merge.page(Kind::Pod, true, true, Vec::new());
        assert_eq!(lacking(&mut merge).as_deref(), Some("Nodes"));
        let nodes = (0..=BATCH).map(|i| node(&format!("{i:05}"))).collect();
        merge.page(Kind::Node, true, true, nodes);
        assert_eq!(lacking(&mut merge).as_deref(), Some("Nodes"));
        assert_eq!(lacking(&mut merge).as_deref(), Some(""));
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
