//! The plugin's binary in the runtime's directory.
//!
//! It is there before any configuration names it: CRI-O leaves out a network whose plugins do not answer VERSION.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::{
    conflist::PLUGIN,
    replace::{self, Like, failed, replace},
    trust::{self, Untrusted},
};

/// Mode of a program.
const MODE: u32 = 0o755;
/// How long a binary may take to tell its versions; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rest between two looks at it.
const REST: Duration = Duration::from_millis(5);

/// Why the binary is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] replace::Error),
    /// Its directory.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// What would be installed does not run here.
    #[error("{path} does not run on this host and is not installed: {why}; is it of this machine's architecture?", path = path.display())]
    Unfit {
        /// The binary.
        path: PathBuf,
        /// What it did instead of answering.
        why: String,
    },
    /// What would be installed could not be run from there.
    #[error("nothing can be run from {path}: its file system is mounted noexec; mount it anew, or name another directory", path = .0.display())]
    NoExec(PathBuf),
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was there already.
    None,
    /// It was put there, or replaced.
    Installed,
}

/// Makes `<directory>/balancing-cni` the same as `source`. On a read-only directory one that is the same is enough.
///
/// # Errors
/// When the source does not run, or the directory cannot be written.
pub fn install(source: &Path, directory: &Path) -> Result<Change, Error> {
    trust::check(directory)?;
    let Some(wanted) = wanted(source, directory)? else { return Ok(Change::None) };
    // Rename also replaces one that runs just now, which could not be written (ETXTBSY).
    replace(&directory.join(PLUGIN), &wanted, Like::Mode(MODE))?;
    Ok(Change::Installed)
}

/// What has to be put there; `None` = it is there. It runs on this host.
///
/// # Errors
/// As [`install`].
pub(crate) fn wanted(source: &Path, directory: &Path) -> Result<Option<Vec<u8>>, Error> {
    let wanted = fs::read(source).map_err(failed("read", source))?;
    let is_noexec = statvfs(directory).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::NOEXEC));
    if is_noexec {
        return Err(Error::NoExec(directory.to_owned()));
    }
    if is_same(&directory.join(PLUGIN), &wanted) {
        return Ok(None);
    }
    test(source)?;
    Ok(Some(wanted))
}

/// Removes the binary.
///
/// # Errors
/// When a system call fails.
pub fn remove(directory: &Path) -> Result<(), Error> {
    Ok(replace::remove(&directory.join(PLUGIN))?)
}

/// Why what is there does not answer as a plugin, in words; `None` = it does.
pub(crate) fn misfit(directory: &Path) -> Option<String> {
    match test(&directory.join(PLUGIN)) {
        Err(Error::Unfit { why, .. }) => Some(why),
        _ => None,
    }
}

/// Whether there is a program of that name, whichever it is.
pub(crate) fn is_there(directory: &Path) -> bool {
    fs::metadata(directory.join(PLUGIN))
        .is_ok_and(|found| found.permissions().mode() & 0o100 != 0 && found.is_file() && found.len() > 0)
}

fn is_same(target: &Path, wanted: &[u8]) -> bool {
    let is_program =
        fs::metadata(target).is_ok_and(|found| found.permissions().mode() & MODE == MODE && found.is_file());
    is_program && fs::read(target).is_ok_and(|found| found == wanted)
}

/// Asks the binary for the versions that it speaks, as a runtime does.
fn test(binary: &Path) -> Result<(), Error> {
    let unfit = |why: String| Error::Unfit { path: binary.to_owned(), why };
    let answer = ask(binary).map_err(|error| unfit(error.to_string()))?;
    let is_list = |answer: &serde_json::Value| answer["supportedVersions"].is_array();
    match serde_json::from_slice(&answer) {
        Ok(answer) if is_list(&answer) => Ok(()),
        _ => Err(unfit(format!("VERSION is answered by {:?}", String::from_utf8_lossy(&answer)))),
    }
}

fn start(binary: &Path) -> io::Result<Child> {
    Command::new(binary)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

fn ask(binary: &Path) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut child = loop {
        match start(binary) {
            // Somebody writes it just now, or has started a process while it did.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(REST);
            }
            started => break started?,
        }
    };
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(b"{\"cniVersion\":\"1.0.0\"}").ok();
    }
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other("it did not answer VERSION in time"));
        }
        thread::sleep(REST);
    }
    Ok(child.wait_with_output()?.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}'\n";

    struct Place {
        _place: tempfile::TempDir,
        source: PathBuf,
        bin: PathBuf,
    }

    impl Place {
        fn new(script: &str) -> Self {
            let place = tempfile::tempdir().unwrap();
            let (source, bin) = (place.path().join("new"), place.path().join("bin"));
            fs::create_dir(&bin).unwrap();
            fs::write(&source, script).unwrap();
            fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
            Self { _place: place, source, bin }
        }

        fn install(&self) -> Result<Change, Error> {
            install(&self.source, &self.bin)
        }
    }

    #[test]
    fn g33_fresh_same_other_and_truncated() {
        let place = Place::new(GOOD);
        let target = place.bin.join(PLUGIN);
        assert_eq!(place.install().unwrap(), Change::Installed);
        assert_eq!(place.install().unwrap(), Change::None);
        for other in [&b"#!/bin/sh\nexit 1\n"[..], b"", &GOOD.as_bytes()[..20]] {
            fs::write(&target, other).unwrap();
            assert_eq!(place.install().unwrap(), Change::Installed);
            assert_eq!(fs::read(&target).unwrap(), GOOD.as_bytes());
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(place.install().unwrap(), Change::Installed, "one that is no program");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, MODE);
        remove(&place.bin).unwrap();
        remove(&place.bin).unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn g37_what_does_not_run_here_is_not_installed() {
        for (script, why) in [
            ("\u{7f}ELF of another machine", "Exec format error"),
            ("#!/bin/sh\necho no\n", "VERSION is answered by \"no\\n\""),
            ("#!/nonexistent\n", "No such file"),
        ] {
            let place = Place::new(script);
            fs::write(place.bin.join(PLUGIN), "the old one").unwrap();
            let error = place.install().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(fs::read(place.bin.join(PLUGIN)).unwrap(), b"the old one");
        }
    }

    #[test]
    fn g35_a_directory_that_is_missing_is_told() {
        let place = Place::new(GOOD);
        let missing = place.bin.join("missing");
        let error = install(&place.source, &missing).unwrap_err().to_string();
        assert!(error.contains("cannot look at") && error.contains("missing"), "{error}");
    }
}
