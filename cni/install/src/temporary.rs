//! Names of our temporary files, and what becomes of those that a killed call has left.
//!
//! While a file is exchanged or taken away, what was at its place has a temporary name for a moment, and that may be what somebody else
//! has written since we looked. So such a name tells fingerprints of what we have left at the place and of what we knew to be
//! there: what is neither is put back, unless the place has changed once more.

use std::{
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::replace::{Error, failed, rename, rename_to_free};

/// Names of our temporary files begin and end so.
const TEMPORARY: (&str, &str) = (".balancing-cni.", ".tmp");
/// Digits of a fingerprint in a name.
const DIGITS: usize = 16;
/// Fingerprint of a file that is not there.
const ABSENT: u64 = 0;
/// Fingerprint of a file that cannot be read.
const UNREAD: u64 = 1;

/// A temporary file for that path, of which nobody else has ever written a byte.
pub(crate) fn of(path: &Path) -> PathBuf {
    named(path, "")
}

/// A temporary file that gets what is at the path, when that is replaced by the new content or taken away (`None`).
pub(crate) fn of_change(path: &Path, new: Option<&[u8]>, known: &[u8]) -> PathBuf {
    let left = new.map_or(ABSENT, fingerprint);
    named(path, &format!(".{left:0DIGITS$x}.{known:0DIGITS$x}", known = fingerprint(known)))
}

fn named(path: &Path, change: &str) -> PathBuf {
    let (begin, end) = TEMPORARY;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{begin}{name}.{}{change}{end}", std::process::id()))
}

/// Removes temporary files that a killed call has left, and puts back what is not ours. The caller sees to it that none is at work.
///
/// # Errors
/// When the directory cannot be read, or one cannot be renamed or removed.
pub(crate) fn sweep(directory: &Path) -> Result<usize, Error> {
    let mut swept = 0;
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let path = entry.map_err(failed("read", directory))?.path();
        let Some(name) = middle_of(&path) else { continue };
        if let Some(change) = Change::of_name(name) {
            change.put_back(&path)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => swept += 1,
        }
    }
    Ok(swept)
}

/// What is between beginning and end; `None` = it is no temporary file of ours.
fn middle_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)?.strip_prefix(TEMPORARY.0)?.strip_suffix(TEMPORARY.1)
}

/// A change that was begun.
#[derive(Debug, PartialEq, Eq)]
struct Change<'n> {
    file: &'n str,
    /// Fingerprint of what we have left at the place.
    left: u64,
    /// Of what we knew to be there.
    known: u64,
}

impl<'n> Change<'n> {
    fn of_name(name: &'n str) -> Option<Self> {
        let mut parts = name.rsplitn(4, '.');
        let mut print = || {
            let part = parts.next().filter(|part| part.len() == DIGITS)?;
            u64::from_str_radix(part, 16).ok()
        };
        let (known, left) = (print()?, print()?);
        let _process = parts.next()?;
        Some(Self { file: parts.next()?, left, known })
    }

    fn put_back(&self, temporary: &Path) -> Result<(), Error> {
        let path = temporary.with_file_name(self.file);
        let is_ours = [self.left, self.known].contains(&fingerprint_of(temporary));
        // A power cut may have left nothing of what its writer did not sync. No runtime loads what is no JSON.
        let is_whole = fs::read(temporary)
            .is_ok_and(|content| serde_json::from_slice::<serde::de::IgnoredAny>(&content).is_ok());
        // What came to the place after ours is newer.
        if is_ours || !is_whole || fingerprint_of(&path) != self.left {
            return Ok(());
        }
        if self.left == ABSENT {
            return rename_to_free(temporary, &path).map(drop);
        }
        renameat_with(CWD, temporary, CWD, &path, RenameFlags::EXCHANGE)
            .map_err(|error| failed("rename back to its place", &path)(error.into()))?;
        if fingerprint_of(temporary) == self.left { Ok(()) } else { rename(temporary, &path) }
    }
}

fn fingerprint_of(path: &Path) -> u64 {
    match fs::read(path) {
        Ok(content) => fingerprint(&content),
        Err(error) if error.kind() == ErrorKind::NotFound => ABSENT,
        Err(_) => UNREAD,
    }
}

/// FNV-1a: the same in each version of ours, for an upgrade may be between the call that was killed and the next.
fn fingerprint(content: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    content.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "10-net.conflist";

    /// The directory after a call that was killed: what is at the place and what has the temporary name.
    fn swept(new: Option<&[u8]>, at_place: Option<&str>, temporary: &str) -> Option<String> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(NAME);
        if let Some(text) = at_place {
            fs::write(&path, text).unwrap();
        }
        fs::write(of_change(&path, new, b"known"), temporary).unwrap();
        assert_eq!(sweep(place.path()).unwrap(), 1);
        let others =
            fs::read_dir(place.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path() != path);
        assert_eq!(others.count(), 0);
        fs::read_to_string(path).ok()
    }

    #[test]
    fn g22_what_a_killed_exchange_has_taken_from_its_place_goes_back() {
        let ours = Some(&b"ours"[..]);
        // Before the exchange, also when it was half written, or somebody was faster; and after one that was right.
        // And after a power cut that took what its writer had not synced.
        for (at_place, temporary) in [
            ("known", "ours"),
            ("known", "ou"),
            ("newer", "ours"),
            ("newer", ""),
            ("ours", "known"),
            ("ours", ""),
        ] {
            assert_eq!(swept(ours, Some(at_place), temporary).as_deref(), Some(at_place), "{temporary}");
        }
        // What came out was not what was known. It goes back, but not over what was written since.
        let newer = r#"{"newer": 1}"#;
        assert_eq!(swept(ours, Some("ours"), newer).as_deref(), Some(newer));
        assert_eq!(swept(ours, Some("newest"), newer).as_deref(), Some("newest"));
        assert_eq!(swept(ours, None, newer), None, "its writer has removed it");
    }

    #[test]
    fn g22_what_a_killed_removal_has_taken_from_its_place_goes_back() {
        assert_eq!(swept(None, None, "known"), None);
        assert_eq!(swept(None, None, "{}").as_deref(), Some("{}"));
        assert_eq!(swept(None, None, ""), None);
        assert_eq!(swept(None, Some("newest"), "{}").as_deref(), Some("newest"));
    }

    #[test]
    fn g16_only_our_temporary_files_are_swept() {
        let place = tempfile::tempdir().unwrap();
        for name in [".balancing-cni.10-net.conflist.4711.tmp", ".balancing-cni.x.1.tmp", ".other.tmp", "x"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        assert_eq!(sweep(place.path()).unwrap(), 2);
        let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, [".other.tmp", "x"]);
    }

    #[test]
    fn g14_no_runtime_takes_a_temporary_file() {
        for name in ["a.conf", "a.conflist", "a.json"] {
            for temporary in [of(Path::new(name)), of_change(Path::new(name), None, b"x")] {
                assert!(middle_of(&temporary).is_some());
                assert_eq!(crate::directory::kind_of(temporary.to_str().unwrap()), None);
            }
        }
    }

    #[test]
    fn a_change_is_read_from_its_name() {
        let temporary = of_change(Path::new("a.1.conf"), Some(b"new"), b"known");
        let change = Change { file: "a.1.conf", left: fingerprint(b"new"), known: fingerprint(b"known") };
        assert_eq!(Change::of_name(middle_of(&temporary).unwrap()), Some(change));
        for name in ["a.conf.4711", "x.1", "1", ""] {
            assert_eq!(Change::of_name(name), None, "{name}");
        }
    }
}
