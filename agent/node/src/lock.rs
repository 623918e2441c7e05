//! One agent per host: a second one, and `cleanup`, must not change what a running one owns.
//!
//! The kernel releases a lock when its holder dies in whatever way.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The right to change what belongs to a path. Ends when dropped.
pub type Lock = Flock<File>;

/// Why the right is not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent, or a cleanup.
    #[error(
        "another agent holds {path}, or a cleanup that is not finished: stop it first, or use another --run-dir and another --bpffs for a second \
         agent",
        path = path.display()
    )]
    Held {
        /// What is locked.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Locks a run directory, which is made when it is missing.
///
/// # Errors
/// [`LockError`].
pub fn run_dir(dir: &Path) -> Result<Lock, LockError> {
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let path = dir.join("agent.lock");
    let file = File::create(&path).map_err(failed("create", &path))?;
    take(file, &path)
}

/// Locks a directory that is there already; bpffs holds no regular files.
///
/// # Errors
/// [`LockError`].
pub fn directory(dir: &Path) -> Result<Lock, LockError> {
    take(File::open(dir).map_err(failed("open", dir))?, dir)
}

fn take(file: File, path: &Path) -> Result<Lock, LockError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => LockError::Held { path: path.to_owned() },
        other => failed("lock", path)(other.into()),
    })
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> LockError {
    move |source| LockError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_in_the_way() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run");
        let held = run_dir(&dir).unwrap();
        let error = run_dir(&dir).unwrap_err().to_string();
        assert!(error.contains("another agent holds") && error.contains("agent.lock"), "{error}");
        drop(held);
        assert!(run_dir(&dir).is_ok());

        let held = directory(&dir).unwrap();
        assert!(matches!(directory(&dir), Err(LockError::Held { .. })));
        drop(held);
        assert!(directory(&dir).is_ok());
        assert!(matches!(directory(&root.path().join("none")), Err(LockError::Io { .. })));
    }
}
