//! The directory of network configurations on disk: reading it, and carrying out steps.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    directory::{File, kind_of},
    placement::{DROP_IN, Directory, REPLACED, Step},
    replace::{self, Like, failed, nudge, replace},
    trust::{self, Untrusted},
};

/// Largest file that is read; configurations have some kilobytes.
const LIMIT: u64 = 4 * 1024 * 1024;
/// Modes of a drop-in and of its directory, whatever the umask: runtimes may run as somebody else.
const MODES: (u32, u32) = (0o644, 0o755);

/// Why a step was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] replace::Error),
    /// A directory that would be written to.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// Somebody has written a file since it was read.
    #[error("{path} has changed meanwhile", path = .0.display())]
    Changed(PathBuf),
}

/// Reads a directory. What cannot be read is a file without text; directories without a file of ours are left out.
///
/// # Errors
/// When the directory itself cannot be read.
pub fn read(directory: &Path) -> Result<Directory, replace::Error> {
    let mut found = Directory::default();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        // A name that is no text cannot end in a way that counts.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if kind_of(&name).is_some() || name.ends_with(REPLACED) {
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                _ => found.files.push(File { name, text: text_of(&path) }),
            }
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = path.join(DROP_IN);
            if fs::symlink_metadata(&path).is_ok() {
                found.drop_ins.push(File { name, text: text_of(&path) });
            }
        }
    }
    found.files.sort_by(|a, b| a.name.cmp(&b.name));
    found.drop_ins.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Drop-ins of all networks, whoever wrote them, named with their directory. A directory that cannot be read is one without text.
pub(crate) fn drop_ins(directory: &Path) -> Vec<File> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    // Runtimes follow links to directories.
    let directories = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut found: Vec<File> = directories.flat_map(|directory| drop_ins_in(&directory)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn drop_ins_in(directory: &Path) -> Vec<File> {
    let network = directory.file_name().unwrap_or_default().to_string_lossy();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![File { name: network.into_owned(), text: Err(error.to_string()) }],
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let files = paths.filter(|path| path.extension().is_some_and(|end| end == "conf") && !path.is_dir());
    let file = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        File { name: format!("{network}/{name}"), text: text_of(&path) }
    };
    files.map(file).collect()
}

fn text_of(path: &Path) -> Result<String, String> {
    let read = || {
        let length = fs::metadata(path)?;
        if !length.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if length.len() > LIMIT {
            return Err(io::Error::other(format!("it has more than {LIMIT} bytes")));
        }
        fs::read_to_string(path)
    };
    read().map_err(|error| error.to_string())
}

/// Carries out steps that were planned for `seen`.
///
/// # Errors
/// At the first step that fails. What is done is done: another look plans the rest.
pub fn apply(directory: &Path, seen: &Directory, steps: &[Step]) -> Result<(), Error> {
    if !steps.is_empty() {
        trust::check(directory)?;
    }
    // What earlier steps have written is no change of somebody else.
    let mut expected = seen.clone();
    for step in steps {
        match step {
            Step::Write { file, text, like } => write(directory, &expected, file, text, like)?,
            Step::Rename { from, to } => rename(directory, &expected, from, to)?,
            Step::Remove(name) => remove(directory, &expected, name)?,
            Step::PutDropIn { network, text } => put_drop_in(directory, network, text)?,
            Step::RemoveDropIn(network) => {
                let place = directory.join(network);
                replace::remove(&place.join(DROP_IN))?;
                // Somebody else's drop-ins may be in it.
                fs::remove_dir(&place).ok();
                nudge(directory)?;
            }
        }
        expected = expected.after(std::slice::from_ref(step));
    }
    Ok(())
}

fn write(directory: &Path, seen: &Directory, file: &str, text: &str, like: &str) -> Result<(), Error> {
    let path = directory.join(file);
    for name in [file, like] {
        unchanged(directory, seen, name)?;
    }
    // Of a link the file that it leads to is replaced, and the link stays.
    let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
    let target = if is_link { path.canonicalize().map_err(failed("follow", &path))? } else { path.clone() };
    trust::check(target.parent().unwrap_or(directory))?;
    let (content, model) = (text.as_bytes(), directory.join(like));
    let is_written = match known(seen, file) {
        Some(known) => {
            let is_known = |path: &Path| text_of(path) == known.text;
            replace::exchange(&target, content, Like::File(&model), text_in(known), is_known)?
        }
        None => replace::create(&target, content, Like::File(&model))?,
    };
    if !is_written {
        return Err(Error::Changed(path));
    }
    if is_link {
        nudge(directory)?;
    }
    Ok(())
}

/// A file that is not the one that was read stays.
fn remove(directory: &Path, seen: &Directory, name: &str) -> Result<(), Error> {
    unchanged(directory, seen, name)?;
    let path = directory.join(name);
    if let Some(known) = known(seen, name)
        && !replace::take_away(&path, text_in(known), |path| text_of(path) == known.text)?
    {
        return Err(Error::Changed(path));
    }
    // CRI-O's watcher passes over the end of a file, and would go on calling what it named.
    Ok(nudge(directory)?)
}

fn put_drop_in(directory: &Path, network: &str, text: &str) -> Result<(), Error> {
    let place = directory.join(network);
    match fs::DirBuilder::new().mode(MODES.1).create(&place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => {
            made.map_err(failed("make", &place))?;
            let mode = fs::Permissions::from_mode(MODES.1);
            fs::set_permissions(&place, mode).map_err(failed("change the mode of", &place))?;
        }
    }
    trust::check(&place)?;
    replace(&place.join(DROP_IN), text.as_bytes(), Like::Mode(MODES.0))?;
    Ok(nudge(directory)?)
}

/// A file that is not the one that was read goes back.
fn rename(directory: &Path, seen: &Directory, from: &str, to: &str) -> Result<(), Error> {
    unchanged(directory, seen, from)?;
    let (old, new) = (directory.join(from), directory.join(to));
    if known(seen, to).is_some() {
        replace::rename(&old, &new)?;
    } else if !replace::rename_to_free(&old, &new)? {
        return Err(Error::Changed(new));
    }
    if known(seen, from).is_some_and(|known| text_of(&new) != known.text) {
        // Where its name is taken again the one there is newer.
        replace::rename_to_free(&new, &old)?;
        return Err(Error::Changed(old));
    }
    Ok(())
}

fn unchanged(directory: &Path, seen: &Directory, name: &str) -> Result<(), Error> {
    let path = directory.join(name);
    let is_known = match known(seen, name) {
        Some(known) => text_of(&path) == known.text,
        None => fs::symlink_metadata(&path).is_err(),
    };
    if is_known { Ok(()) } else { Err(Error::Changed(path)) }
}

fn text_in(known: &File) -> &str {
    known.text.as_deref().unwrap_or_default()
}

fn known<'s>(seen: &'s Directory, name: &str) -> Option<&'s File> {
    seen.files.iter().find(|known| known.name == name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{
        conflist::Place,
        directory::Runtime,
        placement::{COPY, Mode, Wanted, plan, removal},
        temporary,
    };

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;

    fn wanted(mode: Mode) -> Wanted {
        let entry = r#"{"type":"balancing-cni"}"#.to_owned();
        Wanted { mode, runtime: Runtime::Containerd, entry, place: Place::Last }
    }

    fn make(directory: &Path, mode: Mode) -> Result<(), Error> {
        let seen = read(directory)?;
        let steps = plan(&seen, &wanted(mode)).unwrap();
        apply(directory, &seen, &steps)
    }

    #[test]
    fn what_the_model_says_happens_on_disk() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("10-net.conflist");
        fs::write(&path, LIST).unwrap();
        fs::create_dir(place.path().join("x.conflist")).unwrap();
        for mode in
            [Mode::Inline, Mode::DropIn, Mode::Copy, Mode::DropIn, Mode::Inline, Mode::Copy, Mode::Inline]
        {
            let before = read(place.path()).unwrap();
            let steps = plan(&before, &wanted(mode)).unwrap();
            make(place.path(), mode).unwrap();
            let mut expected = before.after(&steps);
            expected.files.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(read(place.path()).unwrap(), expected, "{mode:?}");
            assert_eq!(place.path().join(COPY).exists(), mode == Mode::Copy);
            assert_eq!(place.path().join("net").exists(), mode == Mode::DropIn);
        }
        let seen = read(place.path()).unwrap();
        apply(place.path(), &seen, &removal(&seen)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), LIST);
    }

    #[test]
    fn g22_what_was_written_meanwhile_is_not_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("10-net.conflist");
        fs::write(&path, LIST).unwrap();
        let seen = read(place.path()).unwrap();
        let steps = plan(&seen, &wanted(Mode::Inline)).unwrap();
        let newer = LIST.replace("bridge", "ptp");
        fs::write(&path, &newer).unwrap();
        assert!(matches!(apply(place.path(), &seen, &steps), Err(Error::Changed(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    }

    #[test]
    fn g22_what_is_written_while_ours_is_synced_is_not_lost() {
        let place = tempfile::tempdir().unwrap();
        for (name, list) in [
            ("10-net.conflist", LIST),
            ("20-net.conf", r#"{"cniVersion":"1.0.0","name":"net","type":"bridge"}"#),
        ] {
            let (path, new) = (place.path().join(name), place.path().join("new"));
            for round in 0..150 {
                let newer = list.replace("bridge", &format!("bridge-{round}"));
                fs::write(&path, list).unwrap();
                let seen = read(place.path()).unwrap();
                let steps = plan(&seen, &wanted(Mode::Inline)).unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        // At another moment of the write in each round.
                        (0..round * 40).for_each(|_| std::hint::spin_loop());
                        fs::write(&new, &newer).unwrap();
                        fs::rename(&new, &path).unwrap();
                    });
                    apply(place.path(), &seen, &steps).ok();
                });
                assert_eq!(fs::read_to_string(&path).unwrap(), newer, "{name}, round {round}");
                for other in fs::read_dir(place.path()).unwrap() {
                    fs::remove_file(other.unwrap().path()).unwrap();
                }
            }
        }
    }

    #[test]
    fn g22_a_killed_write_loses_nothing_of_the_primary() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("10-net.conflist");
        fs::write(&path, LIST).unwrap();
        make(place.path(), Mode::Inline).unwrap();
        let ours = fs::read_to_string(&path).unwrap();
        // The primary has written its list just before ours got the name.
        let newer = LIST.replace("bridge", "ptp");
        let left = temporary::of_change(&path, Some(ours.as_bytes()), LIST.as_bytes());
        fs::write(&left, &newer).unwrap();
        temporary::sweep(place.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
        assert!(!left.exists());
    }

    #[test]
    fn g36_a_directory_of_drop_ins_is_as_trusted_as_the_others() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("10-net.conflist"), LIST).unwrap();
        let drop_ins = place.path().join("net");
        fs::create_dir(&drop_ins).unwrap();
        fs::set_permissions(&drop_ins, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = make(place.path(), Mode::DropIn).unwrap_err().to_string();
        assert!(refused.contains("anyone may write") && refused.contains("/net "), "{refused}");
        assert!(!drop_ins.join(DROP_IN).exists());
        fs::remove_dir(&drop_ins).unwrap();
        make(place.path(), Mode::DropIn).unwrap();
        assert_eq!(fs::metadata(&drop_ins).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn g18_a_link_stays_a_link() {
        let (place, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, target) = (place.path().join("10-net.conflist"), elsewhere.path().join("real"));
        fs::write(&target, LIST).unwrap();
        symlink(&target, &link).unwrap();
        make(place.path(), Mode::Inline).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&target).unwrap().contains("balancing-cni"));
        // A link that leads nowhere is a broken file.
        fs::remove_file(&target).unwrap();
        let seen = read(place.path()).unwrap();
        assert!(plan(&seen, &wanted(Mode::Inline)).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn what_is_no_file_or_too_large_is_broken_and_not_read() {
        let place = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, place.path().join("a.conflist"), 0o600.into()).unwrap();
        let large = fs::File::create(place.path().join("b.conflist")).unwrap();
        large.set_len(LIMIT + 1).unwrap();
        let texts: Vec<_> =
            read(place.path()).unwrap().files.into_iter().map(|file| file.text.unwrap_err()).collect();
        assert!(texts[0].contains("no file") && texts[1].contains("more than"), "{texts:?}");
    }
}
