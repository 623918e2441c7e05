//! Locks of the installer: against another one at work, and that of a keeper, by which commands know that there is one.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    keeper::{Error, Settings},
    replace::failed,
};

/// So long the lock is waited for: a process that was just started has the files of the one that starts it for a moment, and a command
/// beside the agent takes milliseconds.
pub(crate) const LOCK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(10));
/// In the run directory, locked as long as a keeper is at work.
const CLAIM: &str = "cni-keeper.lock";

impl Settings {
    /// Shows that somebody installs the plugin again and again; a command that only looks may hold it for a moment.
    pub(crate) fn claim(&self) -> Option<File> {
        fs::create_dir_all(&self.run_dir).ok()?;
        let path = self.run_dir.join(CLAIM);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(path).ok()?;
        file.try_lock().ok().map(|()| file)
    }

    /// That nobody would put back what is taken out now.
    pub(crate) fn unclaimed(&self) -> Result<(), Error> {
        let path = self.run_dir.join(CLAIM);
        match File::open(&path).map(|file| hold(file, &path)) {
            Ok(Err(Error::Locked(_))) => Err(Error::Kept),
            _ => Ok(()),
        }
    }

    /// Locks the run directory's file and the directory of configurations itself: two containers may share the one and not the other.
    pub(crate) fn lock(&self) -> Result<[Option<File>; 2], Error> {
        let path = self.run_dir.join("cni-install.lock");
        fs::create_dir_all(&self.run_dir).map_err(failed("make", &self.run_dir))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        let file = hold(file, &path)?;
        let net_dir = match File::open(&self.net_dir) {
            Ok(directory) => Some(hold(directory, &self.net_dir)?),
            // Whoever needs it says so.
            Err(_) => None,
        };
        Ok([Some(file), net_dir])
    }
}

/// Locks a file, for as long as it is open.
fn hold(file: File, path: &Path) -> Result<File, Error> {
    let until = Instant::now() + LOCK.0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK.1),
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked(path.display().to_string())),
            Err(fs::TryLockError::Error(error)) => return Err(failed("lock", path)(error).into()),
        }
    }
}
