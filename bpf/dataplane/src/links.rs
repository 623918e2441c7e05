//! Link directories: the pins `<dir>/<hook>` that keep one cgroup's hooks attached.
//!
//! It makes, compares and removes cgroup links and chooses the programs for them. It does not decide
//! which cgroup belongs to whom, and it loads no program.
//!
//! Whoever changes a pod's directory holds the pod's [`PodLock`]: links are always multi-attach, so
//! two writers would attach the same program twice, and it would run twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

pub use self::{
    attach::{Change, attach, overridden},
    lock::{Locks, PodLock},
    sweep::{Swept, sweep},
};
use crate::{
    cgroup::{self, CgroupDir, PodUid},
    layout::{Hook, Layout},
    sys,
};

mod attach;
mod lock;
mod sweep;

/// Prefix of directories that are being built or taken down; bpffs allows no dot.
const TEMPORARY: &str = "tmp-";

/// Why links are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has pinned programs for pods.
    #[error(
        "no complete set of programs is pinned at {path}; is bpffs mounted there, and does balancing-agent run \
         on this node?"
    )]
    ProgramsMissing {
        /// Where they were looked for.
        path: PathBuf,
    },
    /// An ancestor's program was attached without flags and tolerates none below it.
    #[error(
        "cannot attach {hook} to {cgroup}: {holder}; detach it or attach it with BPF_F_ALLOW_MULTI or as a link"
    )]
    Exclusive {
        /// Name of the hook.
        hook: &'static str,
        /// The cgroup.
        cgroup: PathBuf,
        /// Who holds the hook, as far as it can be told.
        holder: String,
    },
    /// The cgroup has as many programs on the hook as the kernel allows: 64.
    #[error(
        "cannot attach {hook} to {cgroup}: 64 programs are attached already, more are not allowed; detach one that is of \
         no use: `bpftool cgroup show {cgroup}` lists them"
    )]
    TooMany {
        /// Name of the hook.
        hook: &'static str,
        /// The cgroup.
        cgroup: PathBuf,
    },
    /// The kernel does not know the hook or links.
    #[error("this kernel cannot attach {hook}: {source}; Balancing needs 5.12 or later")]
    Unsupported {
        /// Name of the hook.
        hook: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The cgroup was removed after it was opened.
    #[error("cgroup {cgroup} is gone")]
    CgroupGone {
        /// The cgroup.
        cgroup: PathBuf,
    },
    /// Something of another kind has the name of ours. It is left alone.
    #[error("{path} is not {expected}; remove it by hand if nothing else uses it")]
    Foreign {
        /// The name.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// The cgroup hierarchy cannot be asked.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// Another process holds the pod's lock.
    #[error("pod lock {path} is held by another process")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The pinned programs for pods, one per hook.
#[derive(Debug)]
pub struct Programs {
    programs: BTreeMap<Hook, (OwnedFd, u32)>,
}

/// What one link does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Id of the program that runs.
    pub prog_id: u32,
    /// Inode of the cgroup; 0 once the kernel has released the cgroup.
    pub cgroup_id: u64,
}

impl Programs {
    /// Opens the programs of one ABI.
    ///
    /// # Errors
    /// [`Error::ProgramsMissing`] unless there is one for every hook, [`Error::Foreign`], [`Error::Io`].
    pub fn open(layout: &Layout) -> Result<Self, Error> {
        Self::open_dir(&layout.programs())
    }

    /// Opens the programs `<dir>/<hook>`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_dir(dir: &Path) -> Result<Self, Error> {
        let mut programs = BTreeMap::new();
        for hook in Hook::ALL {
            let path = dir.join(hook.name());
            let program = sys::obj_get(&path).map_err(|source| {
                if source.kind() == io::ErrorKind::NotFound {
                    Error::ProgramsMissing { path: dir.to_owned() }
                } else {
                    io_error("open the program", &path)(source)
                }
            })?;
            let info = sys::prog_info(program.as_fd())
                .map_err(|_error| Error::Foreign { path, expected: "a pinned BPF program" })?;
            programs.insert(hook, (program, info.id));
        }
        Ok(Self { programs })
    }

    /// Programs that this process has loaded.
    ///
    /// # Errors
    /// [`Error::ProgramsMissing`] unless there is one for every hook, [`Error::Foreign`].
    #[cfg(feature = "loader")]
    pub(crate) fn loaded(programs: Vec<(Hook, OwnedFd)>, pins: &Path) -> Result<Self, Error> {
        let mut complete = BTreeMap::new();
        for (hook, program) in programs {
            let foreign = |_error| Error::Foreign { path: pins.join(hook.name()), expected: "a BPF program" };
            let id = sys::prog_info(program.as_fd()).map_err(foreign)?.id;
            complete.insert(hook, (program, id));
        }
        if complete.len() < Hook::ALL.len() {
            return Err(Error::ProgramsMissing { path: pins.to_owned() });
        }
        Ok(Self { programs: complete })
    }

    /// Pins the programs in `dir`, each in place of its predecessor; there is no moment without one, and a pin that
    /// is right stays.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(&self, dir: &Path) -> Result<(), Error> {
        for (hook, program, id) in self.iter() {
            let path = dir.join(hook.name());
            let pinned = sys::obj_get(&path).and_then(|pinned| sys::prog_info(pinned.as_fd()));
            if pinned.is_ok_and(|pinned| pinned.id == id) {
                continue;
            }
            let temporary = dir.join(format!("{TEMPORARY}{}", hook.name()));
            match std::fs::remove_file(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &temporary)(e));
                }
                _ => {}
            }
            sys::obj_pin(program, &temporary).map_err(io_error("pin the program", &temporary))?;
            std::fs::rename(&temporary, &path).map_err(io_error("publish the program", &path))?;
        }
        Ok(())
    }

    /// Takes the programs `<dir>/<hook>` away, so that nobody attaches them any more. Links that run them stay.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn unpublish(dir: &Path) -> Result<(), Error> {
        for hook in Hook::ALL {
            let path = dir.join(hook.name());
            remove_if_there(fs::remove_file(&path)).map_err(io_error("unpin", &path))?;
        }
        Ok(())
    }

    /// Opens the programs of the newest ABI that has a complete set. Needs to know no ABI number.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn newest(bpffs: &Path) -> Result<(Layout, Self), Error> {
        for layout in layouts(bpffs)? {
            match Self::open(&layout) {
                Ok(programs) => return Ok((layout, programs)),
                Err(Error::ProgramsMissing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::ProgramsMissing { path: bpffs.join("balancing") })
    }

    /// Id of a hook's program.
    #[must_use]
    pub fn id(&self, hook: Hook) -> Option<u32> {
        self.programs.get(&hook).map(|(_, id)| *id)
    }

    fn iter(&self) -> impl Iterator<Item = (Hook, BorrowedFd<'_>, u32)> {
        self.programs.iter().map(|(hook, (program, id))| (*hook, program.as_fd(), *id))
    }
}

/// Every ABI that has a directory on a bpffs, newest first. Empty when there is none.
///
/// # Errors
/// [`Error::Io`].
pub fn layouts(bpffs: &Path) -> Result<Vec<Layout>, Error> {
    let base = Layout::new(bpffs, 0).base();
    let mut numbers: Vec<u32> = names(&base)?.iter().filter_map(|name| abi_number(name)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers.into_iter().map(|abi| Layout::new(bpffs, abi)).collect())
}

/// Link directories of one ABI's pods. Unfinished ones and names that are no UID are left out.
///
/// # Errors
/// [`Error::Io`].
pub fn pods(layout: &Layout) -> Result<BTreeMap<PodUid, PathBuf>, Error> {
    let dir = layout.pods();
    let uids = names(&dir)?.into_iter().filter_map(|name| PodUid::new(&name).ok());
    Ok(uids.map(|uid| (uid.clone(), dir.join(uid.as_str()))).collect())
}

/// What the links of a directory do. A hook without a pin is absent.
///
/// # Errors
/// [`Error::Foreign`], [`Error::Io`].
pub fn inspect(dir: &Path) -> Result<BTreeMap<Hook, LinkState>, Error> {
    let mut states = BTreeMap::new();
    for hook in Hook::ALL {
        if let Some((_, state)) = open_link(dir, hook)? {
            states.insert(hook, state);
        }
    }
    Ok(states)
}

/// What those links of a directory do that can be read.
fn inspect_readable(dir: &Path) -> BTreeMap<Hook, LinkState> {
    let read = |hook: Hook| Some((hook, open_link(dir, hook).ok().flatten()?.1));
    Hook::ALL.into_iter().filter_map(read).collect()
}

/// Whether every program of `programs` is attached to a cgroup, whoever attached it: the kernel's word, not that of the pins.
///
/// # Errors
/// [`Error::Io`].
pub fn are_attached(programs: &Programs, cgroup: &CgroupDir) -> Result<bool, Error> {
    for (hook, _, id) in programs.iter() {
        if !attached(cgroup, hook)?.contains(&id) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Programs by hook.
pub type ProgramIds = BTreeMap<Hook, BTreeSet<u32>>;

/// The programs of the links in these directories, as far as they can be read.
#[must_use]
pub fn programs_in(dirs: impl IntoIterator<Item = PathBuf>) -> ProgramIds {
    let mut programs = ProgramIds::new();
    for (hook, link) in dirs.into_iter().flat_map(|dir| inspect_readable(&dir)) {
        programs.entry(hook).or_default().insert(link.prog_id);
    }
    programs
}

/// How many hooks run one of `programs` because it is attached to this very cgroup. What cannot be asked does not run.
#[must_use]
pub fn running(cgroup: &CgroupDir, programs: &ProgramIds) -> usize {
    let runs = |(hook, ours): &(&Hook, &BTreeSet<u32>)| {
        attached(cgroup, **hook).is_ok_and(|ids| ids.iter().any(|id| ours.contains(id)))
    };
    programs.iter().filter(runs).count()
}

/// Ids of the programs of a hook that run because they are attached to this very cgroup, ours and others'.
///
/// # Errors
/// [`Error::Io`].
pub fn attached(cgroup: &CgroupDir, hook: Hook) -> Result<Vec<u32>, Error> {
    let found = sys::prog_query(cgroup.as_fd(), hook.attach_type());
    Ok(found.map_err(io_error("ask what is attached to", cgroup.path()))?.programs)
}

/// Detaches and removes a link directory, and what an interrupted call left of it. `false`: nothing was there.
///
/// The directory disappears with one rename, so nobody sees half of it.
///
/// # Errors
/// [`Error::Io`]; also when something that is not ours lies in the directory, which then stays.
pub fn remove(dir: &Path) -> Result<bool, Error> {
    let temporary = temporary_of(dir)?;
    let leftover = discard(&temporary)?;
    match fs::rename(dir, &temporary) {
        Ok(()) => discard(&temporary),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(leftover),
        Err(source) => Err(io_error("remove the links of", dir)(source)),
    }
}

/// Opens a hook's link. `None`: no such pin.
fn open_link(dir: &Path, hook: Hook) -> Result<Option<(OwnedFd, LinkState)>, Error> {
    let path = dir.join(hook.name());
    let foreign = || Error::Foreign { path: path.clone(), expected: "a pinned link of this hook" };
    let link = match sys::obj_get(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) if path.is_dir() => return Err(foreign()),
        Err(source) => return Err(io_error("open the link", &path)(source)),
    };
    match sys::link_info(link.as_fd()) {
        // The attach type is known even after the cgroup is gone.
        Ok(info) if info.attach_type == hook.attach_type() => {
            Ok(Some((link, LinkState { prog_id: info.prog_id, cgroup_id: info.cgroup_id })))
        }
        Ok(_) => Err(foreign()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(foreign()),
        Err(source) => Err(io_error("examine the link", &path)(source)),
    }
}

/// Detaches and unpins everything in a directory, the hooks that translate first and their replies last, and
/// removes it.
fn discard(dir: &Path) -> Result<bool, Error> {
    // Asked first: on a file system that is mounted read-only removing fails also where nothing is.
    if matches!(fs::symlink_metadata(dir), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Ok(false);
    }
    let mut found = names(dir)?;
    let order = |name: &String| Hook::ALL.iter().position(|hook| hook.name() == name);
    found.sort_by_key(|name| std::cmp::Reverse(order(name)));
    for name in found {
        let path = dir.join(name);
        // Unpinning detaches too, but only after a grace period. What cannot be detached is unpinned all the same.
        drop(sys::obj_get(&path).and_then(|link| sys::link_detach(link.as_fd())));
        remove_if_there(fs::remove_file(&path)).map_err(io_error("unpin", &path))?;
    }
    remove_if_there(fs::remove_dir(dir)).map_err(io_error("remove", dir))
}

fn remove_if_there(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names in a directory; none when there is no directory.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = io_error("list", dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(failed)
}

/// The sibling in which a directory is built or taken down.
fn temporary_of(dir: &Path) -> Result<PathBuf, Error> {
    match dir.file_name() {
        Some(name) => Ok(dir.with_file_name(format!("{TEMPORARY}{}", name.to_string_lossy()))),
        None => Err(Error::Foreign { path: dir.to_owned(), expected: "a link directory" }),
    }
}

/// `v1` is 1; other spellings are not ours.
fn abi_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix('v')?.parse().ok()?;
    (format!("v{number}") == name).then_some(number)
}

fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abi_numbers() {
        assert_eq!(abi_number("v1"), Some(1));
        assert_eq!(abi_number("v12"), Some(12));
        for name in ["1", "v", "v01", "v+1", "v-1", "v1x", "V1", "v99999999999"] {
            assert_eq!(abi_number(name), None, "{name}");
        }
    }

    #[test]
    fn a_missing_bpffs_has_no_programs() {
        let nowhere = Path::new("/nonexistent");
        assert!(layouts(nowhere).unwrap().is_empty());
        let error = Programs::newest(nowhere).unwrap_err();
        assert!(matches!(error, Error::ProgramsMissing { .. }));
        assert!(error.to_string().contains("/nonexistent/balancing"), "{error}");
    }

    #[test]
    fn a_missing_directory_is_removed_already() {
        assert!(!remove(Path::new("/nonexistent/pods/uid")).unwrap());
    }

    #[test]
    fn the_temporary_sibling_is_never_a_pods_directory() {
        let path = temporary_of(Path::new("/b/pods/uid")).unwrap();
        assert_eq!(path, Path::new("/b/pods/tmp-uid"));
        assert!(PodUid::new("tmp-uid").is_err());
    }
}
