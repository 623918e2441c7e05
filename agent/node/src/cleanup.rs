//! `balancing-agent cleanup`: detaches and removes everything of ours on this host.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use balancing_dataplane::{layout::Layout, links};

use crate::{
    config::Place,
    lock::{self, LockError},
};

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// Links.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// An agent is at work: it would put everything back.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A directory.
    #[error("cannot remove {path}: {source}", path = path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Detaches every link, removes all pins of all ABIs and the run directory. Nothing there is no failure.
///
/// # Errors
/// A running agent, or the first thing that cannot be removed; the command can be run again.
pub fn cleanup(place: &Place) -> Result<(), CleanupError> {
    let base = Layout::new(&place.bpffs, 0).base();
    // Held until the end. Where a directory is missing, no agent is at work.
    let _locks = (
        place.run_dir.is_dir().then(|| lock::run_dir(&place.run_dir)).transpose()?,
        base.is_dir().then(|| lock::directory(&base)).transpose()?,
    );
    for layout in links::layouts(&place.bpffs)? {
        for dir in links::pods(&layout)?.values() {
            links::remove(dir)?;
        }
        links::remove(&layout.host())?;
    }
    remove(&base)?;
    remove(&place.run_dir)
}

fn remove(path: &Path) -> Result<(), CleanupError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CleanupError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
