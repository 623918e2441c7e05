//! The directory source: every `*.yaml`, `*.yml` and `*.json` below a directory.
//!
//! It owns the watch on the directory and the order in which files are read. It is level-triggered: an event
//! only says where to look, then the real state is read; events that got lost are made up for by a slow
//! rescan. Names that start with a dot are skipped, so a file can be replaced in one step by a rename. A file
//! that is written in place is read when its writer closes it.
//!
//! Nothing is forgotten because it cannot be read: a broken file, an unreadable directory and a missing root
//! keep the objects they had, and are reported. A link whose target lies outside the directory is read again
//! by the rescan only.

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use balancing_core::digest::FEW;
use balancing_core::kinds::Lacking;
use balancing_core::source::{Batch, SourceStatus};
use engine::{Engine, Pass};
use events::Events;

mod engine;
mod events;
mod index;
mod path;
mod read;
#[cfg(test)]
mod tests;
mod tree;

/// Time in which events gather before they are looked at.
const DEBOUNCE: Duration = Duration::from_millis(1);
/// Time between two looks at everything.
const RESCAN: Duration = Duration::from_secs(30);
/// A rescan that takes long is done less often: at most one part in this many of the time.
const RESCAN_SHARE: u32 = 2_000;
/// Time without a change after which a file counts as written although it is still open.
const SETTLE: Duration = Duration::from_millis(500);
/// First and longest wait before a missing root is looked for again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Bounds, so that a wrong path cannot take the machine.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Largest file in bytes.
    file_size: u64,
    /// Number of files, and of directories.
    files: usize,
}

/// Objects of the files below a directory.
#[derive(Debug)]
pub struct DirSource {
    root: PathBuf,
    limits: Limits,
    rescan: Duration,
    settle: Duration,
}

/// The path cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("directory source {path:?}: the path cannot be made absolute: {source}; give an absolute path")]
pub struct DirSourceError {
    path: PathBuf,
    source: io::Error,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_size: 64 << 20, files: 100_000 }
    }
}

impl DirSource {
    /// A source for the files below `root`, which need not exist yet.
    ///
    /// # Errors
    ///
    /// When `root` is empty, or relative while the working directory is gone.
    pub fn new(root: &Path) -> Result<Self, DirSourceError> {
        let root = std::path::absolute(root)
            .map_err(|source| DirSourceError { path: root.to_path_buf(), source })?;
        Ok(Self { root, limits: Limits::default(), rescan: RESCAN, settle: SETTLE })
    }

    /// Reads and watches until `cancel` is ready or `batches` is closed.
    ///
    /// The first batch comes once the directory could be listed, holds everything and is synced. Files are read on
    /// the runtime's blocking threads.
    pub async fn run(
        self,
        batches: mpsc::Sender<Batch>,
        status: watch::Sender<SourceStatus>,
        cancel: impl Future<Output = ()>,
    ) {
        let mut cancel = pin!(cancel);
        let events = Arc::new(Events::new(self.settle));
        let mut engine = Engine::new(self.root, self.limits, Arc::clone(&events));
        let mut schedule = Schedule::new(self.rescan);
        let mut synced = false;
        loop {
            let work = events.take(schedule.is_due());
            if !work.is_empty() {
                let pass: Pass;
                match tokio::task::spawn_blocking(move || (engine.pass(work), engine)).await {
                    Ok((done, back)) => (pass, engine) = (done, back),
                    Err(error) => return tracing::error!(%error, "the directory source stops"),
                }
                schedule.ran(pass.rescan_took, pass.root_ok);
                let first = pass.status.synced && !synced;
                synced = pass.status.synced;
                publish(&status, pass.status);
                if first || !pass.changes.is_empty() {
                    // A file belongs to no kind before it is read, so none can be lacking.
                    let batch = Batch { changes: pass.changes, synced, lacking: Lacking::new() };
                    tokio::select! {
                        sent = batches.send(batch) => if sent.is_err() { return },
                        () = &mut cancel => return,
                    }
                }
            }
            tokio::select! {
                () = &mut cancel => return,
                () = events.changed() => sleep(DEBOUNCE).await,
                () = sleep_until(events.next_settled().map_or(schedule.due, |at| at.min(schedule.due))) => {}
            }
        }
    }
}

/// When everything is looked at next.
struct Schedule {
    due: Instant,
    rescan: Duration,
    retry: Duration,
}

impl Schedule {
    fn new(rescan: Duration) -> Self {
        Self { due: Instant::now(), rescan, retry: RETRY.0 }
    }

    fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    fn ran(&mut self, rescan_took: Option<Duration>, root_ok: bool) {
        if !root_ok {
            self.due = Instant::now() + self.retry;
            self.retry = (self.retry * 2).min(RETRY.1);
        } else if let Some(took) = rescan_took {
            self.due = Instant::now() + self.rescan.max(took * RESCAN_SHARE);
            self.retry = RETRY.0;
        }
    }
}

/// Publishes a status that differs, and logs what is new in it.
fn publish(sender: &watch::Sender<SourceStatus>, new: SourceStatus) {
    sender.send_if_modified(|old| {
        if *old == new {
            return false;
        }
        let known: BTreeSet<_> = old.problems.iter().collect();
        let news: Vec<_> = new.problems.iter().filter(|problem| !known.contains(problem)).collect();
        for problem in news.iter().take(FEW) {
            tracing::warn!(path = problem.path, "{}", problem.message);
        }
        if news.len() > FEW {
            let (source, more) = (&new.description, news.len() - FEW);
            tracing::warn!(source, more, "more problems; `balancingctl status` lists all");
        }
        if new.problems.is_empty() && !old.problems.is_empty() {
            tracing::info!(source = new.description, "no problems left");
        }
        *old = new;
        true
    });
}
