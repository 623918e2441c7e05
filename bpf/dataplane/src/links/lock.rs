//! One writer per pod: the plugin and the agent may want to change the same pod at the same time.
//!
//! A lock is flock(2) on `<run-dir>/lock/<uid>`; bpffs cannot hold regular files. The kernel releases
//! it when its holder dies. The file goes with the lock, so nothing piles up.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Error, io_error, names};
use crate::cgroup::PodUid;

/// Pause between two tries for a lock that is held.
const PAUSE: Duration = Duration::from_millis(1);

/// The locks below one run directory.
#[derive(Clone, Debug)]
pub struct Locks {
    dir: PathBuf,
}

/// The right to change a pod's links and records. Ends when dropped.
#[derive(Debug)]
pub struct PodLock {
    path: PathBuf,
    file: File,
}

impl Locks {
    /// The locks below `run_dir`. Nothing is made yet.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { dir: run_dir.join("lock") }
    }

    /// Waits for a pod's lock for `patience` at most.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Io`].
    pub fn acquire(&self, uid: &PodUid, patience: Duration) -> Result<PodLock, Error> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(lock) = self.try_acquire(uid)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(Error::Locked { path: self.path(uid) });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes a pod's lock if nobody holds it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn try_acquire(&self, uid: &PodUid) -> Result<Option<PodLock>, Error> {
        let path = self.path(uid);
        let failed = io_error("lock", &path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .map_err(io_error("make the directory", &self.dir))?;
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(&failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Its last holder may have removed the file after it was opened here.
            if is_at(&file, &path).map_err(&failed)? {
                return Ok(Some(PodLock { path: path.clone(), file }));
            }
        }
    }

    /// Pods whose lock somebody holds or has just left.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn held(&self) -> Result<Vec<PodUid>, Error> {
        Ok(names(&self.dir)?.iter().filter_map(|name| PodUid::new(name).ok()).collect())
    }

    fn path(&self, uid: &PodUid) -> PathBuf {
        self.dir.join(uid.as_str())
    }
}

impl Drop for PodLock {
    fn drop(&mut self) {
        // Held until after the removal, so whoever opened this file sees that it is gone. A failure
        // leaves an empty file that the next holder removes.
        drop(fs::remove_file(&self.path));
        drop(self.file.unlock());
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn locks(test: &str) -> Locks {
        Locks::new(&std::env::temp_dir().join(format!("balancing-{test}-{}", std::process::id())))
    }

    fn remove(locks: &Locks) {
        fs::remove_dir_all(locks.dir.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_held_lock_is_not_given_twice_and_leaves_nothing() {
        let locks = locks("lock");
        let uid = PodUid::new("a").unwrap();
        let held = locks.try_acquire(&uid).unwrap().unwrap();
        assert!(locks.try_acquire(&uid).unwrap().is_none());
        let error = locks.acquire(&uid, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        let _other = locks.try_acquire(&PodUid::new("b").unwrap()).unwrap().unwrap();
        drop(held);
        assert!(!locks.path(&uid).exists());
        assert!(locks.try_acquire(&uid).unwrap().is_some());
        remove(&locks);
    }

    #[test]
    fn at_most_one_holder_while_files_come_and_go() {
        let locks = locks("locks");
        let uid = PodUid::new("a").unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = locks.acquire(&uid, Duration::from_secs(30)).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        remove(&locks);
    }
}
