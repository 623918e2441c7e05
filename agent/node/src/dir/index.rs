//! Which file each object comes from, and what the consumer has been told. Pure: no files, no clock.
//!
//! The objects themselves are not kept, only a fingerprint of what was delivered: the consumer has them, and
//! a second copy of everything would double the agent's memory. When an object's file stops naming it and
//! another file does too, that file is asked to be read again.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    sync::Arc,
};

use super::path::FilePath;
use balancing_core::{
    objects::{Object, ObjectKey},
    source::Change,
};

#[cfg(test)]
mod tests;

/// Claims of files on objects. The file whose path sorts first owns an object.
#[derive(Default)]
pub(super) struct Index {
    files: BTreeMap<FilePath, BTreeSet<Arc<ObjectKey>>>,
    claims: BTreeMap<Arc<ObjectKey>, Claim>,
    /// Keys with more than one file.
    contested: BTreeSet<Arc<ObjectKey>>,
    /// Keys whose new owner has not been read since it became the owner.
    orphans: BTreeMap<FilePath, BTreeSet<Arc<ObjectKey>>>,
    changes: BTreeMap<Arc<ObjectKey>, Change>,
}

#[derive(Default)]
struct Claim {
    /// Sorted, not empty.
    files: Vec<FilePath>,
    /// Fingerprint of the version that the consumer has.
    delivered: Option<u64>,
}

/// An object that two files name.
pub(super) struct Contested<'a> {
    /// The file that counts.
    pub(super) winner: &'a Path,
    /// A file that does not.
    pub(super) loser: &'a Path,
    /// The object.
    pub(super) key: &'a ObjectKey,
}

impl Index {
    /// `file` now holds `objects`; of the `unreadable` ones what was known still stands.
    pub(super) fn replace(
        &mut self,
        file: &FilePath,
        objects: Vec<Object>,
        unreadable: &BTreeSet<ObjectKey>,
    ) {
        let old = self.files.remove(file).unwrap_or_default();
        let mut keys = BTreeSet::new();
        for object in objects {
            let key = Arc::new(object.key());
            self.claim(file, &key, object);
            keys.insert(key);
        }
        for key in self.orphans.remove(file).unwrap_or_default() {
            if !keys.contains(&key) {
                self.forget(&key);
            }
        }
        for key in old {
            if unreadable.contains(&*key) {
                keys.insert(key);
            } else if !keys.contains(&key) {
                self.release(file, &key);
            }
        }
        if !keys.is_empty() {
            self.files.insert(file.clone(), keys);
        }
    }

    /// `file` is gone.
    pub(super) fn remove(&mut self, file: &FilePath) {
        self.replace(file, Vec::new(), &BTreeSet::new());
    }

    /// Files to be read again, because objects are theirs now.
    pub(super) fn orphanages(&self) -> Vec<FilePath> {
        self.orphans.keys().cloned().collect()
    }

    /// `file` was to be read again and cannot be: its objects are unknown.
    pub(super) fn give_up(&mut self, file: &FilePath) {
        for key in self.orphans.remove(file).unwrap_or_default() {
            self.forget(&key);
        }
    }

    /// The changes since the last call, by key.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes).into_values().collect()
    }

    /// Objects that several files name.
    pub(super) fn contested(&self) -> impl Iterator<Item = Contested<'_>> {
        let claims =
            self.contested.iter().filter_map(|key| Some((key, self.claims.get(key)?.files.split_first()?)));
        claims.flat_map(|(key, (winner, losers))| {
            losers.iter().map(move |loser| Contested { winner, loser, key })
        })
    }

    fn claim(&mut self, file: &FilePath, key: &Arc<ObjectKey>, object: Object) {
        let claim = self.claims.entry(Arc::clone(key)).or_default();
        if let Err(place) = claim.files.binary_search(file) {
            claim.files.insert(place, file.clone());
        }
        if claim.files.len() > 1 {
            self.contested.insert(Arc::clone(key));
        }
        let print = Some(fingerprint(&object));
        if claim.files.first() == Some(file) && claim.delivered != print {
            claim.delivered = print;
            self.changes.insert(Arc::clone(key), Change::Upsert(object));
        }
    }

    fn release(&mut self, file: &FilePath, key: &Arc<ObjectKey>) {
        let Some(claim) = self.claims.get_mut(key) else { return };
        let was_owner = claim.files.first() == Some(file);
        claim.files.retain(|other| other != file);
        if claim.files.len() < 2 {
            self.contested.remove(key);
        }
        match claim.files.first() {
            Some(next) if was_owner => {
                self.orphans.entry(next.clone()).or_default().insert(Arc::clone(key));
            }
            Some(_) => {}
            None => {
                self.forget(key);
                self.claims.remove(key);
            }
        }
    }

    /// Takes an object away from the consumer; who claims it is another matter.
    fn forget(&mut self, key: &Arc<ObjectKey>) {
        if self.claims.get_mut(key).and_then(|claim| claim.delivered.take()).is_some() {
            self.changes.insert(Arc::clone(key), Change::Delete(ObjectKey::clone(key)));
        }
    }
}

fn fingerprint(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    hasher.finish()
}
