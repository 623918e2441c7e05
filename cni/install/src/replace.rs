//! Replacing a file so that nobody ever sees half of it, not even after a power cut.
//!
//! The new content is written beside the old one and synced, takes over mode, owner and attributes of a model, and gets its
//! name by rename; then the directory is synced. Runtimes watch the directory: they notice the rename (containerd ignores the
//! making of files), and take no file whose name ends as a temporary one does.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, XattrFlags, fgetxattr, flistxattr, fsetxattr, renameat_with},
    io::Errno,
};

use crate::temporary;

/// Largest attribute that is carried over; a security label has some dozen bytes.
const ATTRIBUTE: usize = 64 * 1024;

/// A system call on a file failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}", path = path.display())]
pub struct Error {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// What a new file is like.
#[derive(Clone, Copy, Debug)]
pub enum Like<'p> {
    /// Mode, owner and attributes of this file.
    File(&'p Path),
    /// This mode, the owner that the caller has.
    Mode(u32),
}

/// Makes `path` hold the content.
///
/// # Errors
/// When a system call fails; the file is then as it was before, and the temporary one is gone where that could be done.
pub fn replace(path: &Path, content: &[u8], like: Like<'_>) -> Result<(), Error> {
    let temporary = temporary::of(path);
    let written = write(&temporary, content, like).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written
}

/// Makes `path` hold the content, if what it held is what `is_known` takes for it; else the file stays, and the answer is `false`.
/// What somebody writes while the new content is synced is not lost: the two files change their names at once, and the one
/// that came out is looked at. `known` is its text, for whoever finds what a killed call has left.
///
/// # Errors
/// As [`replace`].
pub fn exchange(
    path: &Path,
    content: &[u8],
    like: Like<'_>,
    known: &str,
    is_known: impl Fn(&Path) -> bool,
) -> Result<bool, Error> {
    let temporary = temporary::of_change(path, Some(content), known.as_bytes());
    let written = write(&temporary, content, like).and_then(|()| swap(&temporary, path, content, is_known));
    fs::remove_file(&temporary).ok();
    let is_written = written?;
    sync_directory_of(path)?;
    Ok(is_written)
}

fn swap(new: &Path, path: &Path, content: &[u8], is_known: impl Fn(&Path) -> bool) -> Result<bool, Error> {
    // Writing ours took its time.
    if !is_known(path) {
        return Ok(false);
    }
    match renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) if is_known(new) => return Ok(true),
        Ok(()) => {}
        Err(error) if is_unsupported(error) => {
            return if is_known(path) { rename(new, path).map(|()| true) } else { Ok(false) };
        }
        // Somebody has removed it.
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(failed("rename to its place", path)(error.into())),
    }
    renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE)
        .map_err(|error| failed("rename back to its place", path)(error.into()))?;
    // Who has written once more since is the one that counts.
    if fs::read(new).is_ok_and(|found| found != content) {
        rename(new, path)?;
    }
    Ok(false)
}

/// Makes `path`, which does not exist, hold the content; `false` = it does exist.
///
/// # Errors
/// As [`replace`].
pub fn create(path: &Path, content: &[u8], like: Like<'_>) -> Result<bool, Error> {
    let temporary = temporary::of(path);
    let written = write(&temporary, content, like).and_then(|()| rename_to_free(&temporary, path));
    fs::remove_file(&temporary).ok();
    written
}

/// Renames a file within its directory, unless the new name is taken: then the answer is `false`.
///
/// # Errors
/// When a system call fails.
pub fn rename_to_free(from: &Path, to: &Path) -> Result<bool, Error> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => sync_directory_of(to).map(|()| true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) if is_unsupported(error) => match fs::symlink_metadata(to) {
            Ok(_) => Ok(false),
            Err(_) => rename(from, to).map(|()| true),
        },
        Err(error) => Err(failed("rename to its place", to)(error.into())),
    }
}

/// Some file systems have only the plain rename.
fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Renames a file within its directory.
///
/// # Errors
/// When a system call fails.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(failed("rename to its place", to))?;
    sync_directory_of(to)
}

/// Removes a file; one that is not there counts as removed.
///
/// # Errors
/// When a system call fails.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => sync_directory_of(path),
    }
}

/// Removes a file, if it is what `is_known` takes for it; else it stays, and the answer is `false`. It loses its name before it is
/// looked at, so nobody writes to it in between. One that is not there counts as removed.
///
/// # Errors
/// When a system call fails.
pub fn take_away(path: &Path, known: &str, is_known: impl Fn(&Path) -> bool) -> Result<bool, Error> {
    let temporary = temporary::of_change(path, None, known.as_bytes());
    match fs::rename(path, &temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        renamed => renamed.map_err(failed("rename away", path))?,
    }
    let is_known = is_known(&temporary);
    // Where its name is taken again the one there is newer.
    if is_known || !rename_to_free(&temporary, path)? {
        remove(&temporary)?;
    }
    Ok(is_known)
}

/// Lets whoever watches a directory look at it: a file is made, and renamed away to nothing.
///
/// # Errors
/// When a system call fails.
pub fn nudge(directory: &Path) -> Result<(), Error> {
    let path = temporary::of(&directory.join("nudge"));
    File::create(&path).map_err(failed("make", &path))?;
    fs::remove_file(&path).map_err(failed("remove", &path))
}

fn write(temporary: &Path, content: &[u8], like: Like<'_>) -> Result<(), Error> {
    // One of a killed call with the same process id.
    fs::remove_file(temporary).ok();
    // Nobody's file or link is written to.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(failed("make", temporary))?;
    file.write_all(content).map_err(failed("write", temporary))?;
    match like {
        Like::File(model) => take_over(&file, temporary, model)?,
        Like::Mode(mode) => set_mode(&file, temporary, mode)?,
    }
    file.sync_all().map_err(failed("sync", temporary))
}

/// Mode, owner and attributes of the model. A label that cannot be set is left to the kernel's rules for the directory.
fn take_over(file: &File, path: &Path, model: &Path) -> Result<(), Error> {
    let model_file = File::open(model).map_err(failed("open", model))?;
    let known = model_file.metadata().map_err(failed("look at", model))?;
    let own = file.metadata().map_err(failed("look at", path))?;
    if (own.uid(), own.gid()) != (known.uid(), known.gid()) {
        std::os::unix::fs::fchown(file, Some(known.uid()), Some(known.gid()))
            .map_err(failed("change the owner of", path))?;
    }
    let mut names = vec![0; ATTRIBUTE];
    let length = flistxattr(&model_file, &mut names[..]).unwrap_or(0);
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; ATTRIBUTE];
        if let Ok(length) = fgetxattr(&model_file, name, &mut value[..]) {
            fsetxattr(file, name, &value[..length], XattrFlags::empty()).ok();
        }
    }
    // Last: a change of the owner clears bits of the mode.
    set_mode(file, path, known.mode() & 0o7777)
}

fn set_mode(file: &File, path: &Path, mode: u32) -> Result<(), Error> {
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("change the mode of", path))
}

fn sync_directory_of(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|file| file.sync_all()).map_err(failed("sync", directory))
}

/// The error of an operation on a path.
pub(crate) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { operation, path, source }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn g10_mode_owner_and_attributes_stay() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("10-net.conflist");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        let has_owner = std::os::unix::fs::chown(&path, Some(7), Some(8)).is_ok();
        let has_attribute = rustix::fs::setxattr(&path, "user.note", b"kept", XattrFlags::empty()).is_ok();
        replace(&path, b"new", Like::File(&path)).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((fs::read(&path).unwrap(), after.mode() & 0o7777), (b"new".to_vec(), 0o604));
        assert!(!has_owner || (after.uid(), after.gid()) == (7, 8));
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(&path, "user.note", &mut value[..]).unwrap_or(0);
        assert!(!has_attribute || value[..length] == *b"kept");
        assert_eq!(names(place.path()), ["10-net.conflist"]);
    }

    #[test]
    fn g22_what_comes_out_is_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("10-net.conflist");
        fs::write(&path, "newer").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let is = |text: &'static str| {
            move |path: &Path| fs::read(path).is_ok_and(|found| found == text.as_bytes())
        };
        assert!(!exchange(&path, b"ours", Like::File(&path), "older", is("older")).unwrap());
        assert_eq!(
            (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().ino()),
            (b"newer".to_vec(), inode)
        );
        // Who writes while it is looked at wins, too, before ours has got the name and afterwards.
        let looks = Cell::new(0);
        for (text, ends) in [("newest", 1), ("last", 2)] {
            looks.set(0);
            let writer = |_: &Path| {
                looks.set(looks.get() + 1);
                looks.get() < ends || fs::write(&path, text).is_err()
            };
            assert!(!exchange(&path, b"ours", Like::File(&path), "newer", writer).unwrap());
            assert_eq!((fs::read(&path).unwrap(), looks.get()), (text.as_bytes().to_vec(), ends));
        }
        assert!(exchange(&path, b"ours", Like::File(&path), "last", is("last")).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert!(!create(&path, b"other", Like::Mode(0o600)).unwrap());
        assert!(!exchange(&place.path().join("gone"), b"x", Like::Mode(0o600), "", |_| true).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert_eq!(names(place.path()), ["10-net.conflist"]);
    }

    #[test]
    fn g22_what_is_taken_away_is_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("10-net.conflist");
        fs::write(&path, "newer").unwrap();
        assert!(!take_away(&path, "older", |_| false).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        // Who writes meanwhile wins.
        assert!(!take_away(&path, "older", |_| fs::write(&path, "newest").is_err()).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"newest");
        assert!(take_away(&path, "newest", |path| fs::read(path).unwrap() == b"newest").unwrap());
        assert!(take_away(&path, "newest", |_| false).unwrap(), "it is not there any more");
        assert_eq!(names(place.path()), [""; 0]);
    }

    #[test]
    fn g17_where_nothing_can_be_written_the_file_stays() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("missing/10-net.conflist");
        let error = replace(&path, b"new", Like::Mode(0o600)).unwrap_err().to_string();
        assert!(error.starts_with("cannot make ") && error.contains("No such file"), "{error}");
        let path = place.path().join("directory");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new", Like::Mode(0o600)).is_err(), "a directory is not replaced");
        assert_eq!(names(place.path()), ["directory"], "the temporary file is gone");
    }
}
