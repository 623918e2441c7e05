//! Which symbolic links pass through which names.
//!
//! A mounted ConfigMap shows `policy.yaml -> ..data/policy.yaml` and is updated by replacing the link `..data`.
//! Nothing happens to `policy.yaml` itself then, so the event on `..data` has to lead to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use super::{FilePath, below};

/// Links by the names inside the root that their targets contain.
#[derive(Default)]
pub(super) struct Links {
    names: BTreeSet<(FilePath, FilePath)>,
    links: BTreeMap<FilePath, Vec<FilePath>>,
}

impl Links {
    /// Adds a link below `root`. A link that is gone or leads out of `root` adds nothing.
    pub(super) fn add(&mut self, link: &Path, root: &Path) {
        let (Ok(target), Some(parent)) = (link.read_link(), link.parent()) else { return };
        let target = normalize(&parent.join(target));
        let inside = target.ancestors().take_while(|name| *name != root && name.starts_with(root));
        let names: Vec<_> = inside.map(FilePath::from).collect();
        let link = FilePath::from(link);
        self.names.extend(names.iter().map(|name| (name.clone(), link.clone())));
        self.links.insert(link, names);
    }

    /// Forgets the links at and below `path`.
    pub(super) fn remove_below(&mut self, path: &Path) {
        for link in below(&self.links, path) {
            for name in self.links.remove(&link).unwrap_or_default() {
                self.names.remove(&(name, link.clone()));
            }
        }
    }

    /// The links that pass through `name`.
    pub(super) fn through(&self, name: &Path) -> Vec<FilePath> {
        let first = (FilePath::from(name), FilePath::from(Path::new("")));
        self.names.range(&first..).take_while(|(n, _)| *n == first.0).map(|(_, link)| link.clone()).collect()
    }
}

/// Removes `.` and `..` by name only; links on the way have their own entry.
fn normalize(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => clean.push(component),
        }
    }
    clean
}
