//! The directory as it was last seen, and what has changed since.
//!
//! It owns the watches: a directory is always watched before it is listed, so that nothing can change in
//! between unseen. It reads names and metadata, never the content of a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use super::{
    Limits,
    path::{FilePath, below},
    read::Stamp,
};
use balancing_core::manifest::Format;
use links::Links;
use walk::{Found, Walk};
pub(super) use watcher::Watcher;

mod links;
mod walk;
mod watcher;

/// Device and inode of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// Everything known of the directory.
pub(super) struct Tree {
    root: FilePath,
    limits: Limits,
    watcher: Watcher,
    /// Directories that are watched.
    dirs: BTreeMap<FilePath, Identity>,
    /// Files of ours, with the stamp of the content that was read last.
    files: BTreeMap<FilePath, Option<Stamp>>,
    links: Links,
    problems: BTreeMap<FilePath, String>,
}

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// Files to read.
    pub(super) read: BTreeSet<FilePath>,
    /// Files that are gone.
    pub(super) gone: BTreeSet<FilePath>,
}

/// The root cannot be used at the moment.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    /// It cannot be looked at or listed.
    #[error(
        "cannot be read: {0}; create it or correct its permissions, it is tried again, known objects are kept"
    )]
    Io(#[from] io::Error),
    /// It is a file.
    #[error("is not a directory; give the directory that holds the manifests")]
    NotADirectory,
}

impl Tree {
    /// A tree of which nothing has been seen.
    pub(super) fn new(root: PathBuf, limits: Limits, watcher: Watcher) -> Self {
        Self {
            root: root.into(),
            limits,
            watcher,
            dirs: BTreeMap::new(),
            files: BTreeMap::new(),
            links: Links::default(),
            problems: BTreeMap::new(),
        }
    }

    /// The root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What is wrong with directories and links.
    pub(super) fn problems(&self) -> &BTreeMap<FilePath, String> {
        &self.problems
    }

    /// Checks the root; answers whether it still is the directory that is watched.
    ///
    /// # Errors
    ///
    /// When there is no directory. The watches are taken as lost then, all else stays as it was.
    pub(super) fn check_root(&mut self) -> Result<bool, RootError> {
        match self.root.metadata() {
            Ok(root) if root.is_dir() => {
                Ok(self.dirs.get(self.root.as_os_str()) == Some(&Identity::of(&root)))
            }
            Ok(_) => Err(self.lose_root(RootError::NotADirectory)),
            Err(error) => Err(self.lose_root(error.into())),
        }
    }

    /// Looks at everything without watching it. What is read meanwhile has to be looked at again, by a rescan.
    ///
    /// The watcher reports every opened file, so reading many of them unwatched is far cheaper.
    ///
    /// # Errors
    ///
    /// When the root cannot be listed.
    pub(super) fn survey(&mut self) -> Result<Delta, RootError> {
        let root = self.root.clone();
        let mut found = self.walk(&root, false);
        if let Some(error) = found.errors.remove(root.as_os_str()) {
            return Err(error.into());
        }
        let mut delta = Delta::default();
        self.merge(&root, found, &BTreeSet::new(), &mut delta);
        Ok(delta)
    }

    /// Looks at everything. Files in `writing` are left for later.
    ///
    /// # Errors
    ///
    /// When the root cannot be listed; nothing is gone then.
    pub(super) fn rescan(&mut self, writing: &BTreeSet<FilePath>) -> Result<Delta, RootError> {
        let root = self.root.clone();
        self.watcher.ensure();
        let mut found = self.walk(&root, true);
        if let Some(error) = found.errors.remove(root.as_os_str()) {
            return Err(self.lose_root(error.into()));
        }
        let mut delta = Delta::default();
        self.merge(&root, found, writing, &mut delta);
        Ok(delta)
    }

    /// Looks at one path because something happened there. Files below it in `writing` are left for later.
    pub(super) fn visit(&mut self, path: &Path, writing: &BTreeSet<FilePath>, delta: &mut Delta) {
        for link in self.links.through(path) {
            self.refresh(&link, writing, delta);
        }
        let Ok(below) = path.strip_prefix(&self.root) else { return };
        let is_root = below.as_os_str().is_empty();
        if !is_root && !below.components().any(|c| is_hidden(c.as_os_str())) {
            self.refresh(path, writing, delta);
        }
    }

    /// Takes back what was seen: these files have to be looked at again.
    pub(super) fn unsee(&mut self, delta: Delta) {
        self.files.extend(delta.gone.into_iter().chain(delta.read).map(|path| (path, None)));
    }

    /// Remembers which content of a file has been read.
    pub(super) fn was_read(&mut self, path: &Path, stamp: Option<Stamp>) {
        if let Some(entry) = self.files.get_mut(path.as_os_str()) {
            *entry = stamp;
        }
    }

    /// Ends all watches; the next rescan begins new ones.
    pub(super) fn drop_watches(&mut self) {
        for dir in std::mem::take(&mut self.dirs).into_keys() {
            self.watcher.unwatch(&dir);
        }
    }

    fn lose_root(&mut self, error: RootError) -> RootError {
        self.drop_watches();
        error
    }

    fn refresh(&mut self, path: &Path, writing: &BTreeSet<FilePath>, delta: &mut Delta) {
        self.problems.remove(path.as_os_str());
        self.links.remove_below(path);
        let own = match path.symlink_metadata() {
            Ok(own) => own,
            Err(error) if is_absent(&error) => return self.merge(path, Found::default(), writing, delta),
            Err(error) => return self.problem(path, unreadable(&error)),
        };
        self.refresh_target(path, writing, delta);
        if own.is_symlink() {
            self.links.add(path, &self.root);
        }
    }

    fn refresh_target(&mut self, path: &Path, writing: &BTreeSet<FilePath>, delta: &mut Delta) {
        let is_ours = Format::of(path).is_some();
        match path.metadata() {
            Ok(target) if target.is_dir() => {
                // What happened may have cost the watches below.
                for dir in below(&self.dirs, path) {
                    self.dirs.remove(&dir);
                }
                let found = self.walk(path, true);
                self.merge(path, found, writing, delta);
            }
            Ok(target) if target.is_file() && is_ours => self.refresh_file(path, delta),
            Ok(_) => self.merge(path, Found::default(), writing, delta),
            Err(error) if is_ours || self.dirs.contains_key(path.as_os_str()) => {
                self.problem(path, unreadable(&error))
            }
            Err(_) => {}
        }
    }

    fn refresh_file(&mut self, path: &Path, delta: &mut Delta) {
        if !self.files.contains_key(path.as_os_str()) && self.files.len() >= self.limits.files {
            return self.problem(path.parent().unwrap_or(path), self.limits.exceeded());
        }
        let path = FilePath::from(path);
        self.files.entry(path.clone()).or_default();
        delta.gone.remove(&path);
        delta.read.insert(path);
    }

    fn problem(&mut self, path: &Path, message: String) {
        self.problems.insert(path.into(), message);
    }

    fn walk(&mut self, dir: &Path, watch: bool) -> Found {
        let walk = Walk {
            root: &self.root,
            known_dirs: &self.dirs,
            known_files: &self.files,
            watcher: watch.then_some(&mut self.watcher),
            limits: self.limits,
            room: self.limits.files.saturating_sub(self.files.len()),
            dirs: 0,
        };
        walk.run(dir)
    }

    /// Takes what was found at and below `scope` for the truth.
    fn merge(&mut self, scope: &Path, found: Found, writing: &BTreeSet<FilePath>, delta: &mut Delta) {
        let unread = |path: &Path| found.errors.keys().any(|dir| path.starts_with(dir));
        for path in below(&self.files, scope) {
            if !found.files.contains_key(&path) && !unread(&path) {
                self.files.remove(&path);
                delta.read.remove(&path);
                delta.gone.insert(path);
            }
        }
        for dir in below(&self.dirs, scope) {
            if !found.dirs.contains_key(&dir) && !unread(&dir) {
                self.dirs.remove(&dir);
                self.watcher.unwatch(&dir);
            }
        }
        for path in below(&self.problems, scope) {
            self.problems.remove(&path);
        }
        for (path, stamp) in found.files {
            let known = self.files.entry(path.clone()).or_default();
            if *known != Some(stamp) && !writing.contains(&path) {
                delta.gone.remove(&path);
                delta.read.insert(path);
            }
        }
        self.problems.extend(found.errors.into_iter().map(|(dir, error)| (dir, unreadable(&error))));
        self.problems.extend(found.problems);
        self.dirs.extend(found.dirs);
        self.links.remove_below(scope);
        for link in found.links {
            self.links.add(&link, &self.root);
        }
    }
}

impl Limits {
    fn exceeded(self) -> String {
        format!("there are more than {} files; not all of this directory are read, remove some", self.files)
    }
}

impl Identity {
    fn of(dir: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self { device: dir.dev(), inode: dir.ino() }
    }
}

/// Names that start with a dot are nobody's business but their writer's.
fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// There is no such file, as opposed to one that cannot be looked at.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}; what was known below it is kept")
}
