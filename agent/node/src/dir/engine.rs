//! One pass: look where the marks point, read what has changed, say what that means.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Limits,
    events::{Events, Work},
    index::Index,
    path::FilePath,
    read::{ReadError, Reading, read_all},
    tree::{Delta, RootError, Tree, Watcher},
};
use balancing_core::{
    manifest::Manifest,
    source::{Change, SourceProblem, SourceStatus, title},
};

/// Problems of one file that are listed; the rest is a number.
const LISTED_PROBLEMS: usize = 20;
/// Objects in two files that are listed; the rest is a number.
const LISTED_CONTESTED: usize = 100;

/// All state of the source.
pub(super) struct Engine {
    tree: Tree,
    index: Index,
    limits: Limits,
    root_error: Option<RootError>,
    file_problems: BTreeMap<FilePath, Vec<String>>,
    /// Kinds that have been logged as ignored.
    ignored: BTreeSet<String>,
    synced: bool,
    /// How long the last rescan took.
    rescan_took: Option<Duration>,
}

/// What a pass came to.
pub(super) struct Pass {
    pub(super) changes: Vec<Change>,
    pub(super) status: SourceStatus,
    /// The root could be looked at.
    pub(super) root_ok: bool,
    /// How long looking at everything took, if that was done.
    pub(super) rescan_took: Option<Duration>,
}

impl Engine {
    /// A source of which nothing has been read.
    pub(super) fn new(root: PathBuf, limits: Limits, events: Arc<Events>) -> Self {
        Self {
            tree: Tree::new(root, limits, Watcher::new(events)),
            index: Index::default(),
            limits,
            root_error: None,
            file_problems: BTreeMap::new(),
            ignored: BTreeSet::new(),
            synced: false,
            rescan_took: None,
        }
    }

    /// Looks and reads. Blocks on the file system.
    pub(super) fn pass(&mut self, work: Work) -> Pass {
        self.root_error = self.try_pass(work).err();
        Pass {
            changes: if self.synced { self.index.take_changes() } else { Vec::new() },
            status: self.status(),
            root_ok: self.root_error.is_none(),
            rescan_took: self.rescan_took.take(),
        }
    }

    fn try_pass(&mut self, work: Work) -> Result<(), RootError> {
        if !self.synced {
            self.tree.check_root()?;
            let delta = self.tree.survey()?;
            self.apply(delta);
        }
        let delta = self.look(work)?;
        self.apply(delta);
        self.synced = true;
        Ok(())
    }

    fn look(&mut self, work: Work) -> Result<Delta, RootError> {
        if work.lost {
            self.tree.drop_watches();
        }
        let same_root = self.tree.check_root()?;
        let rescan = work.rescan || !same_root || work.paths.contains(self.tree.root().as_os_str());
        let mut delta = if rescan { self.rescan(&work)? } else { Delta::default() };
        // After a rescan too: what happened may have cost a watch that the rescan takes for alive.
        for path in &work.paths {
            self.tree.visit(path, &work.writing, &mut delta);
        }
        // When the root goes away its files go first. That must not look like an empty directory.
        if !delta.gone.is_empty() && !matches!(self.tree.check_root(), Ok(true)) {
            self.tree.unsee(delta);
            self.tree.check_root()?;
            delta = self.rescan(&work)?;
        }
        Ok(delta)
    }

    fn rescan(&mut self, work: &Work) -> Result<Delta, RootError> {
        let started = Instant::now();
        let delta = self.tree.rescan(&work.writing);
        self.rescan_took = Some(started.elapsed());
        delta
    }

    fn apply(&mut self, delta: Delta) {
        for path in &delta.gone {
            self.file_problems.remove(path);
            self.index.remove(path);
        }
        let paths: Vec<_> = delta.read.into_iter().collect();
        for reading in read_all(&paths, self.limits.file_size) {
            self.take(reading);
        }
        let orphanages = self.index.orphanages();
        for reading in read_all(&orphanages, self.limits.file_size) {
            self.take(reading);
        }
        for path in orphanages {
            self.index.give_up(&path);
        }
    }

    fn take(&mut self, Reading { path, stamp, result }: Reading) {
        self.tree.was_read(&path, stamp);
        let problems = match result {
            Ok(manifest) => self.accept(&path, manifest),
            // It is just going; the event that says so is on its way.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => vec![error.to_string()],
        };
        if problems.is_empty() {
            self.file_problems.remove(&path);
        } else {
            self.file_problems.insert(path, problems);
        }
    }

    fn accept(&mut self, path: &FilePath, manifest: Manifest) -> Vec<String> {
        for kind in manifest.ignored {
            if !self.ignored.contains(&kind) {
                tracing::info!(kind, path = %path.display(), "objects of this kind mean nothing here and are ignored");
                self.ignored.insert(kind);
            }
        }
        self.index.replace(path, manifest.objects, &manifest.unreadable);
        let count = manifest.problems.len();
        let mut problems: Vec<_> =
            manifest.problems.iter().take(LISTED_PROBLEMS).map(ToString::to_string).collect();
        if count > LISTED_PROBLEMS {
            problems.push(format!("and {} more problems; correct these first", count - LISTED_PROBLEMS));
        }
        problems
    }

    fn status(&self) -> SourceStatus {
        let root = self.tree.root();
        let mut problems = Vec::new();
        let mut add = |path: &Path, message: String| {
            problems.push(SourceProblem { path: path.display().to_string(), message });
        };
        if let Some(error) = &self.root_error {
            add(root, error.to_string());
        }
        for (path, message) in self.tree.problems() {
            add(path, message.clone());
        }
        for (path, messages) in &self.file_problems {
            messages.iter().for_each(|message| add(path, message.clone()));
        }
        for contested in self.index.contested().take(LISTED_CONTESTED) {
            let (object, winner) = (title(contested.key), contested.winner.display());
            add(contested.loser, format!("{object}: is also in {winner}, which counts; remove one of them"));
        }
        let more = self.index.contested().skip(LISTED_CONTESTED).count();
        if more > 0 {
            add(root, format!("{more} more objects are in two files; remove them from one"));
        }
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        SourceStatus {
            description: format!("dir:{}", root.display()),
            synced: self.synced,
            problems,
            stored: None,
        }
    }
}
