//! Walking directories: watch, list, descend.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::FileType,
    io,
    path::{Path, PathBuf},
};

use super::{Identity, Limits, Stamp, Watcher, is_absent, is_hidden};
use crate::manifest::Format;

/// One walk.
pub(super) struct Walk<'a> {
    pub(super) root: &'a Path,
    /// Directories that are watched already.
    pub(super) known_dirs: &'a BTreeMap<PathBuf, Identity>,
    /// Files that are taken in any case.
    pub(super) known_files: &'a BTreeMap<PathBuf, Option<Stamp>>,
    /// Watches every directory before it is listed.
    pub(super) watcher: Option<&'a mut Watcher>,
    pub(super) limits: Limits,
    /// Files that may be taken beside the known ones.
    pub(super) room: usize,
}

/// What a walk has found.
#[derive(Default)]
pub(super) struct Found {
    /// Files of ours.
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    /// Directories that are watched.
    pub(super) dirs: BTreeMap<PathBuf, Identity>,
    /// Symbolic links to files and directories.
    pub(super) links: Vec<PathBuf>,
    /// What could not be looked at; nothing is known about what is below.
    pub(super) errors: BTreeMap<PathBuf, io::Error>,
    /// Other problems.
    pub(super) problems: BTreeMap<PathBuf, String>,
}

impl Walk<'_> {
    /// Walks `dir` and all directories below it, through links too.
    pub(super) fn run(mut self, dir: &Path) -> Found {
        let mut found = Found::default();
        let parents = dir.ancestors().skip(1).take_while(|parent| parent.starts_with(self.root));
        let mut above: Vec<_> = parents.filter_map(|p| p.metadata().ok()).map(|p| Identity::of(&p)).collect();
        self.dir(dir, &mut above, &mut found);
        found
    }

    fn dir(&mut self, dir: &Path, above: &mut Vec<Identity>, found: &mut Found) {
        let identity = match dir.metadata() {
            Ok(metadata) => Identity::of(&metadata),
            Err(error) if is_absent(&error) && dir != self.root => return,
            Err(error) => return drop(found.errors.insert(dir.to_path_buf(), error)),
        };
        if above.contains(&identity) {
            let message = "is a link to a directory above it; it is not followed, remove it".to_owned();
            return drop(found.problems.insert(dir.to_path_buf(), message));
        }
        if found.dirs.len() >= self.limits.files {
            let message =
                format!("there are more than {} directories; this one is not read", self.limits.files);
            return drop(found.problems.insert(dir.to_path_buf(), message));
        }
        self.watch(dir, identity, found);
        match list(dir) {
            Ok(entries) => {
                above.push(identity);
                for (name, kind) in entries {
                    self.entry(&dir.join(name), kind, above, found);
                }
                above.pop();
            }
            Err(error) => drop(found.errors.insert(dir.to_path_buf(), error)),
        }
    }

    fn watch(&mut self, dir: &Path, identity: Identity, found: &mut Found) {
        let Some(watcher) = &mut self.watcher else { return };
        let known = self.known_dirs.get(dir) == Some(&identity);
        match if known { Ok(()) } else { watcher.watch(dir) } {
            Ok(()) => drop(found.dirs.insert(dir.to_path_buf(), identity)),
            Err(message) => drop(found.problems.insert(dir.to_path_buf(), message)),
        }
    }

    fn entry(&mut self, path: &Path, kind: FileType, above: &mut Vec<Identity>, found: &mut Found) {
        let is_ours = Format::of(path).is_some();
        if kind.is_dir() {
            return self.dir(path, above, found);
        }
        let may_be_ours = kind.is_symlink() || kind.is_file() && is_ours;
        if !may_be_ours {
            return;
        }
        if kind.is_symlink() {
            found.links.push(path.to_path_buf());
        }
        match path.metadata() {
            Ok(target) if target.is_dir() => self.dir(path, above, found),
            Ok(target) if target.is_file() && is_ours => self.file(path, Stamp::of(&target), found),
            Ok(_) => {}
            // A file that has just been removed is gone; a link without target is broken.
            Err(error) if is_absent(&error) && !kind.is_symlink() => {}
            Err(error) if is_ours || self.known_dirs.contains_key(path) => {
                found.errors.insert(path.to_path_buf(), error);
            }
            Err(_) => {}
        }
    }

    fn file(&mut self, path: &Path, stamp: Stamp, found: &mut Found) {
        if !self.known_files.contains_key(path) {
            let Some(room) = self.room.checked_sub(1) else {
                let dir = path.parent().unwrap_or(self.root);
                return drop(found.problems.insert(dir.to_path_buf(), self.limits.exceeded()));
            };
            self.room = room;
        }
        found.files.insert(path.to_path_buf(), stamp);
    }
}

/// The entries of a directory by name, without the hidden ones.
fn list(dir: &Path) -> io::Result<Vec<(OsString, FileType)>> {
    let mut entries = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_hidden(&name) {
            entries.push((name, entry.file_type()?));
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}
