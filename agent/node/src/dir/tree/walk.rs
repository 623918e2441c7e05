//! Walking directories: watch, list, descend.

use std::{collections::BTreeMap, ffi::OsString, io, path::Path};

use super::{FilePath, Identity, Limits, Stamp, Watcher, is_absent, is_hidden};
use balancing_core::manifest::Format;

/// One walk.
pub(super) struct Walk<'a> {
    pub(super) root: &'a Path,
    /// Directories that are watched already.
    pub(super) known_dirs: &'a BTreeMap<FilePath, Identity>,
    /// Files that are taken in any case.
    pub(super) known_files: &'a BTreeMap<FilePath, Option<Stamp>>,
    /// Watches every directory before it is listed.
    pub(super) watcher: Option<&'a mut Watcher>,
    pub(super) limits: Limits,
    /// Files that may be taken beside the known ones.
    pub(super) room: usize,
    /// Directories seen so far.
    pub(super) dirs: usize,
}

/// What a walk has found.
#[derive(Default)]
pub(super) struct Found {
    /// Files of ours.
    pub(super) files: BTreeMap<FilePath, Stamp>,
    /// Directories that are watched.
    pub(super) dirs: BTreeMap<FilePath, Identity>,
    /// Symbolic links to files and directories.
    pub(super) links: Vec<FilePath>,
    /// What could not be looked at; nothing is known about what is below.
    pub(super) errors: BTreeMap<FilePath, io::Error>,
    /// Other problems.
    pub(super) problems: BTreeMap<FilePath, String>,
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
            Err(error) => return drop(found.errors.insert(dir.into(), error)),
        };
        if above.contains(&identity) {
            let message = "is a link to a directory above it; it is not followed, remove it".to_owned();
            return drop(found.problems.insert(dir.into(), message));
        }
        self.dirs += 1;
        if self.dirs > self.limits.files {
            let message =
                format!("there are more than {} directories; this one is not read", self.limits.files);
            return drop(found.problems.insert(dir.into(), message));
        }
        self.watch(dir, identity, found);
        match list(dir) {
            Ok(entries) => {
                above.push(identity);
                for (name, entry) in entries {
                    self.entry(&dir.join(name), entry, above, found);
                }
                above.pop();
            }
            Err(error) => drop(found.errors.insert(dir.into(), error)),
        }
    }

    fn watch(&mut self, dir: &Path, identity: Identity, found: &mut Found) {
        let Some(watcher) = &mut self.watcher else { return };
        let known = self.known_dirs.get(dir.as_os_str()) == Some(&identity);
        match if known { Ok(()) } else { watcher.watch(dir) } {
            Ok(()) => drop(found.dirs.insert(dir.into(), identity)),
            Err(message) => drop(found.problems.insert(dir.into(), message)),
        }
    }

    fn entry(&mut self, path: &Path, entry: Entry, above: &mut Vec<Identity>, found: &mut Found) {
        match entry {
            Entry::Dir => self.dir(path, above, found),
            Entry::File(stamp) => self.file(path, stamp, found),
            Entry::Link => {
                found.links.push(path.into());
                self.link(path, above, found);
            }
        }
    }

    fn link(&mut self, path: &Path, above: &mut Vec<Identity>, found: &mut Found) {
        let is_ours = Format::of(path).is_some();
        match path.metadata() {
            Ok(target) if target.is_dir() => self.dir(path, above, found),
            Ok(target) if target.is_file() && is_ours => self.file(path, Stamp::of(&target), found),
            Ok(_) => {}
            Err(error) if is_ours || self.known_dirs.contains_key(path.as_os_str()) => {
                found.errors.insert(path.into(), error);
            }
            Err(_) => {}
        }
    }

    fn file(&mut self, path: &Path, stamp: Stamp, found: &mut Found) {
        if !self.known_files.contains_key(path.as_os_str()) {
            let Some(room) = self.room.checked_sub(1) else {
                let dir = path.parent().unwrap_or(self.root);
                return drop(found.problems.insert(dir.into(), self.limits.exceeded()));
            };
            self.room = room;
        }
        found.files.insert(path.into(), stamp);
    }
}

/// What a directory may hold for us.
enum Entry {
    Dir,
    File(Stamp),
    /// Of which the target decides.
    Link,
}

/// The entries of a directory by name, without those that are hidden or mean nothing here.
fn list(dir: &Path) -> io::Result<Vec<(OsString, Entry)>> {
    let mut entries = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let is_ours = Format::of(Path::new(&name)).is_some();
        let kind = match (kind.is_dir(), kind.is_symlink(), kind.is_file() && is_ours) {
            _ if is_hidden(&name) => continue,
            (true, _, _) => Entry::Dir,
            (_, true, _) => Entry::Link,
            // Looked at through the open directory, which is cheaper than by path.
            (_, _, true) => match entry.metadata() {
                Ok(metadata) => Entry::File(Stamp::of(&metadata)),
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(error),
            },
            (false, false, false) => continue,
        };
        entries.push((name, kind));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}
