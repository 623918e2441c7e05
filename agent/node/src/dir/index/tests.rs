//! Who owns an object, and what the consumer is told.

use std::{collections::BTreeSet, path::Path};

use super::{FilePath, Index};
use balancing_core::{
    objects::{Node, Object, ObjectKey},
    source::Change,
};

/// A node in a version that is told from others by a label.
fn node(name: &str, version: &str) -> Object {
    let labels = [("version".to_owned(), version.to_owned())].into_iter().collect();
    Object::Node(Node { name: name.into(), labels, ..Node::default() })
}

fn path(file: &str) -> FilePath {
    FilePath::from(Path::new(file))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::Node(name.into())
}

fn upsert(name: &str, version: &str) -> Change {
    Change::Upsert(node(name, version))
}

fn delete(name: &str) -> Change {
    Change::Delete(key(name))
}

fn replace(index: &mut Index, file: &str, objects: &[(&str, &str)]) -> Vec<Change> {
    let objects = objects.iter().map(|(name, version)| node(name, version)).collect();
    index.replace(&path(file), objects, &BTreeSet::new());
    index.take_changes()
}

fn contested(index: &Index) -> Vec<(String, String)> {
    index.contested().map(|c| (c.winner.display().to_string(), c.loser.display().to_string())).collect()
}

#[test]
fn only_differences_are_told() {
    let mut index = Index::default();
    assert_eq!(replace(&mut index, "f", &[("b", "1"), ("a", "1")]), [upsert("a", "1"), upsert("b", "1")]);
    assert_eq!(replace(&mut index, "f", &[("a", "1"), ("b", "1")]), []);
    assert_eq!(replace(&mut index, "f", &[("a", "2"), ("b", "1")]), [upsert("a", "2")]);
    assert_eq!(replace(&mut index, "f", &[("b", "1"), ("c", "1")]), [delete("a"), upsert("c", "1")]);
    index.remove(&path("f"));
    assert_eq!(index.take_changes(), [delete("b"), delete("c")]);
    assert!(index.files.is_empty() && index.claims.is_empty());
}

#[test]
fn an_object_can_move_between_files() {
    let mut index = Index::default();
    replace(&mut index, "f", &[("a", "1")]);
    index.remove(&path("f"));
    index.replace(&path("g"), vec![node("a", "1")], &BTreeSet::new());
    assert_eq!(index.take_changes(), [upsert("a", "1")]);
}

#[test]
fn the_first_file_wins_and_the_next_takes_over() {
    let mut index = Index::default();
    assert_eq!(replace(&mut index, "g", &[("a", "g")]), [upsert("a", "g")]);
    assert_eq!(replace(&mut index, "h", &[("a", "h")]), []);
    assert_eq!(replace(&mut index, "f", &[("a", "f")]), [upsert("a", "f")]);
    let pair = |loser: &str| ("f".to_owned(), loser.to_owned());
    assert_eq!(contested(&index), [pair("g"), pair("h")]);
    index.remove(&path("h"));
    assert_eq!(contested(&index), [pair("g")]);

    index.remove(&path("f"));
    assert_eq!(contested(&index), []);
    assert_eq!(index.orphanages(), [path("g")]);
    assert_eq!(replace(&mut index, "g", &[("a", "g")]), [upsert("a", "g")]);
    assert!(index.orphanages().is_empty());
}

#[test]
fn a_heir_with_the_same_object_changes_nothing() {
    let mut index = Index::default();
    replace(&mut index, "f", &[("a", "1")]);
    replace(&mut index, "g", &[("a", "1")]);
    index.remove(&path("f"));
    assert_eq!(replace(&mut index, "g", &[("a", "1")]), []);
}

#[test]
fn a_heir_that_cannot_be_read_loses_the_object() {
    let mut index = Index::default();
    replace(&mut index, "f", &[("a", "f")]);
    replace(&mut index, "g", &[("a", "g")]);
    index.remove(&path("f"));
    index.give_up(&path("g"));
    assert_eq!(index.take_changes(), [delete("a")]);
    assert_eq!(replace(&mut index, "g", &[("a", "g")]), [upsert("a", "g")]);
}

#[test]
fn a_heir_that_has_dropped_the_object_deletes_it() {
    let mut index = Index::default();
    replace(&mut index, "f", &[("a", "f")]);
    replace(&mut index, "g", &[("a", "g"), ("b", "g")]);
    index.remove(&path("f"));
    assert_eq!(replace(&mut index, "g", &[("b", "g")]), [delete("a")]);
    assert!(index.orphanages().is_empty());
}

#[test]
fn unreadable_objects_stay() {
    let mut index = Index::default();
    replace(&mut index, "f", &[("a", "1"), ("b", "1")]);
    let unreadable = BTreeSet::from([key("a"), key("never-seen")]);
    index.replace(&path("f"), vec![node("b", "2")], &unreadable);
    assert_eq!(index.take_changes(), [upsert("b", "2")]);
    assert_eq!(replace(&mut index, "f", &[("b", "2")]), [delete("a")]);
}
