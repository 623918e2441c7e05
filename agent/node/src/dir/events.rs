//! What the kernel says has happened, gathered until somebody looks.
//!
//! Events are not a log: a path is marked at most once, and too many marks become one rescan.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind},
};
use tokio::{sync::Notify, time::Instant};

use super::path::FilePath;

#[cfg(test)]
mod tests;

/// A file that never stops changing is read after this many times the time in which it should have settled.
const SETTLE_AT_MOST: u32 = 10;
/// With more marks than this, looking at everything is cheaper.
const MOST_MARKS: usize = 10_000;

/// Marks left by the watcher's thread, taken by the source.
pub(super) struct Events {
    /// A file that is being written is read when it has not changed for this long, closed or not.
    settle: Duration,
    marks: Mutex<Marks>,
    wake: Notify,
}

/// Where to look.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Look at everything.
    pub(super) rescan: bool,
    /// Events were lost: look at everything and trust no watch.
    pub(super) lost: bool,
    /// Look at these paths.
    pub(super) paths: BTreeSet<FilePath>,
    /// Do not read these: somebody is writing them.
    pub(super) writing: BTreeSet<FilePath>,
}

#[derive(Default)]
struct Marks {
    lost: bool,
    paths: BTreeMap<FilePath, Mark>,
}

#[derive(Clone, Copy)]
enum Mark {
    /// To be looked at.
    Ready,
    /// Open for writing: half of a file is worse than the old one.
    Writing { first: Instant, last: Instant },
}

/// What an event means for a path.
#[derive(Clone, Copy)]
enum Meaning {
    Ready,
    /// Attributes changed, which says nothing about a writer.
    Touched,
    Written,
    Nothing,
}

impl Work {
    /// Nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        !self.rescan && !self.lost && self.paths.is_empty()
    }
}

impl Mark {
    fn settled(self, settle: Duration) -> Option<Instant> {
        match self {
            Self::Ready => None,
            Self::Writing { first, last } => Some((last + settle).min(first + settle * SETTLE_AT_MOST)),
        }
    }
}

impl Events {
    /// No marks; files count as written when they have not changed for `settle`.
    pub(super) fn new(settle: Duration) -> Self {
        Self { settle, marks: Mutex::default(), wake: Notify::new() }
    }

    /// Takes an event of the watcher.
    pub(super) fn handle(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) => self.mark(&event),
            Err(error) => {
                tracing::debug!(%error, "the watch reports an error, everything is looked at again");
                self.lock().lost = true;
                self.wake.notify_one();
            }
        }
    }

    /// Takes the marks that are ready.
    pub(super) fn take(&self, rescan: bool) -> Work {
        let now = Instant::now();
        let mut marks = self.lock();
        let mut work = Work { rescan, lost: std::mem::take(&mut marks.lost), ..Work::default() };
        marks.paths.retain(|path, mark| {
            let ready = mark.settled(self.settle).is_none_or(|at| at <= now);
            let to = if ready { &mut work.paths } else { &mut work.writing };
            to.insert(path.clone());
            !ready
        });
        work
    }

    /// When the first file that is being written counts as written.
    pub(super) fn next_settled(&self) -> Option<Instant> {
        self.lock().paths.values().filter_map(|mark| mark.settled(self.settle)).min()
    }

    /// Waits for an event that came after the last call.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    fn mark(&self, event: &Event) {
        let lost = event.attrs.flag() == Some(Flag::Rescan);
        let meaning = meaning(event);
        if matches!(meaning, Meaning::Nothing) && !lost {
            return;
        }
        let now = Instant::now();
        let mut marks = self.lock();
        marks.lost |= lost;
        for path in &event.paths {
            let path = FilePath::from(path.as_path());
            let old = marks.paths.get(&path).copied();
            let new = match (meaning, old) {
                (Meaning::Written, Some(Mark::Writing { first, .. })) => Mark::Writing { first, last: now },
                (Meaning::Written, _) => Mark::Writing { first: now, last: now },
                (Meaning::Touched, Some(old)) => old,
                (Meaning::Ready | Meaning::Touched | Meaning::Nothing, _) => Mark::Ready,
            };
            marks.paths.insert(path, new);
        }
        if marks.paths.len() > MOST_MARKS {
            marks.lost = true;
            marks.paths.clear();
        }
        drop(marks);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn meaning(event: &Event) -> Meaning {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Meaning::Ready,
        // Reading files and listing directories, our own included.
        EventKind::Access(_) => Meaning::Nothing,
        EventKind::Create(CreateKind::File) if event.paths.iter().all(|path| is_being_created(path)) => {
            Meaning::Written
        }
        EventKind::Modify(ModifyKind::Data(_)) => Meaning::Written,
        EventKind::Modify(ModifyKind::Metadata(_)) => Meaning::Touched,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => Meaning::Ready,
    }
}

/// A new name is either a new file, which its writer will close, or a link to something complete.
fn is_being_created(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    path.symlink_metadata().is_ok_and(|file| file.is_file() && file.nlink() == 1)
}
