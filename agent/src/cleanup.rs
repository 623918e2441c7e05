//! `balancing-agent cleanup`: detaches and removes everything of ours on this host.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use balancing_dataplane::{layout::Layout, links};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::config::{Place, lock_path};

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// Links.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// An agent would put everything back.
    #[error("an agent is running with {path}: stop it first", path = path.display())]
    Running {
        /// Its lock.
        path: PathBuf,
    },
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
/// The first thing that cannot be removed; the command can be run again.
pub fn cleanup(place: &Place) -> Result<(), CleanupError> {
    let path = lock_path(&place.run_dir);
    // Held until the end. Without the file no agent has run with this directory.
    let _lock = match fs::File::open(&path).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
        Ok(Err((_, Errno::EWOULDBLOCK))) => return Err(CleanupError::Running { path }),
        Ok(lock) => lock.ok(),
        Err(_) => None,
    };
    for layout in links::layouts(&place.bpffs)? {
        for dir in links::pods(&layout)?.values() {
            links::remove(dir)?;
        }
        links::remove(&layout.host())?;
    }
    remove(&Layout::new(&place.bpffs, 0).base())?;
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
