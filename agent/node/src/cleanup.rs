//! `balancing-agent cleanup`: detaches and removes everything of ours on this host.
//!
//! The plugin may be at work with a pod meanwhile, and pods go on starting: the programs go first, so that no call finds any;
//! then the links, each under its pod's lock, so that a call which had found them has ended. Before the links go, the programs are told
//! to redirect nothing and to go on naming, for what is on its way.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use balancing_dataplane::{
    cgroup::PodUid,
    layout::Layout,
    links::{self, Locks, Programs},
    tables,
};
use balancing_kube::source::stored::STATE_FILE;

use crate::{
    config::Place,
    fabric::{self, FabricError},
    lock::{self, LockError},
};

/// How long a call of the plugin for one pod may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long answers to what was redirected still get their names: as long as a resolver waits for one (resolv.conf(5)).
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// How often a directory is removed in which somebody writes, and the pause in between.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// Links.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// The tunnel.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// An agent is at work: it would put everything back.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What could not be detached; everything else is.
    #[error("not everything could be detached, the rest is: {}", .0.join("; "))]
    Left(Vec<String>),
    /// A directory.
    #[error("cannot remove {path}: {source}", path = path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pods that were detached.
    pub pods: usize,
    /// Host processes were hooked.
    pub host: bool,
    /// Anything else: programs, tables, the run directory.
    pub anything: bool,
    /// Calls of the plugin keep the run directory.
    pub is_busy: bool,
}

/// Detaches every link, removes all pins of all ABIs and the run directory; `abi` is that of the tables that this program knows.
/// Nothing there is no failure.
///
/// # Errors
/// A running agent, or the first thing that cannot be removed; the command can be run again.
pub fn cleanup(place: &Place, abi: u32) -> Result<Removed, CleanupError> {
    let base = Layout::new(&place.bpffs, 0).base();
    // Held until the end. Where a directory is missing, no agent is at work.
    let _locks = (
        place.run_dir.is_dir().then(|| lock::run_dir(&place.run_dir)).transpose()?,
        base.is_dir().then(|| lock::directory(&base)).transpose()?,
    );
    let mut removed = Removed { anything: base.is_dir() || place.run_dir.is_dir(), ..Removed::default() };
    let layouts = links::layouts(&place.bpffs)?;
    for layout in &layouts {
        Programs::unpublish(&layout.programs())?;
    }
    let locks = Locks::new(&place.run_dir);
    // A call that locks its pod from now on finds no programs.
    for uid in locks.held()? {
        drop(locks.acquire(&uid, PATIENCE)?);
    }
    for layout in layouts.iter().filter(|layout| layout.abi() != abi) {
        if is_hooked(layout)? {
            let abi = layout.abi();
            tracing::warn!(
                abi,
                "names go at once with redirection: the programs are those of another version"
            );
        }
    }
    stop_redirecting(&Layout::new(&place.bpffs, abi))?;
    let mut failed = Vec::new();
    for layout in &layouts {
        for (uid, dir) in links::pods(layout)? {
            match detach(&locks, &uid, &dir) {
                Ok(detached) => removed.pods += usize::from(detached),
                Err(error) => failed.push(error.to_string()),
            }
        }
        match links::remove(&layout.host()) {
            Ok(detached) => removed.host |= detached,
            Err(error) => failed.push(error.to_string()),
        }
    }
    if !failed.is_empty() {
        return Err(CleanupError::Left(failed));
    }
    removed.anything |= fabric::remove_remains(&place.bpffs)?;
    remove(&base)?;
    if let Some(dir) = &place.state_dir {
        removed.anything |= remove_state(dir)?;
    }
    removed.is_busy = !remove(&place.run_dir)?;
    Ok(removed)
}

/// Removes the stored state, and the directory where it holds nothing else; whether there was one.
fn remove_state(dir: &Path) -> Result<bool, CleanupError> {
    let path = dir.join(STATE_FILE);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(CleanupError::Remove { path, source }),
    }
    // Whatever else is in it is not ours.
    fs::remove_dir(dir).ok();
    Ok(true)
}

/// Whether the host or a pod has links.
fn is_hooked(layout: &Layout) -> Result<bool, CleanupError> {
    let is_host = fs::read_dir(layout.host()).is_ok_and(|mut links| links.next().is_some());
    Ok(is_host || !links::pods(layout)?.is_empty())
}

/// Ends redirection where something is hooked, and waits for answers. An end in the middle leaves programs that only name; the next
/// agent begins with empty tables. Tables of other ABIs are not ours to write.
fn stop_redirecting(layout: &Layout) -> Result<(), CleanupError> {
    if !is_hooked(layout)? {
        return Ok(());
    }
    match tables::stop(layout) {
        Ok(()) => {
            tracing::info!("redirection has ended; the names of what was redirected go in {ON_THE_WAY:?}");
            thread::sleep(ON_THE_WAY);
        }
        Err(error) => tracing::warn!("names go at once with redirection: {error}"),
    }
    Ok(())
}

fn detach(locks: &Locks, uid: &PodUid, dir: &Path) -> Result<bool, CleanupError> {
    let _lock = locks.acquire(uid, PATIENCE)?;
    Ok(links::remove(dir)?)
}

/// Removes a directory; one that is mounted, as in a container, is emptied. Calls of the plugin write into the run directory also
/// when they attach nothing; one that never ends to do so keeps it: `false`.
fn remove(path: &Path) -> Result<bool, CleanupError> {
    for _ in 0..TRIES {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => thread::sleep(PAUSE),
            Err(error) if is_of_mount(&error) && is_empty(path) => return Ok(true),
            Err(source) => return Err(CleanupError::Remove { path: path.to_owned(), source }),
        }
    }
    Ok(false)
}

/// What the kernel says of a mount point, or of a directory that is read-only above it.
fn is_of_mount(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem)
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
