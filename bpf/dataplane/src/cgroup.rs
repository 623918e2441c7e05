//! Finds and opens the cgroup2 directory of a pod.
//!
//! It only reads the cgroup tree. It attaches nothing, makes no directory, and never leaves the
//! mount it is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

pub use self::{
    liveness::{by_id, gone},
    places::places,
    uid::PodUid,
};
use crate::mount::Mounts;

mod liveness;
mod names;
mod places;
mod scan;
mod uid;

/// Pause between two looks for a directory that does not exist yet.
const PAUSE: Duration = Duration::from_millis(5);

/// Why a pod's cgroup is not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The UID cannot be part of a path.
    #[error("pod UID {uid:?} is not 1 to 64 letters, digits and inner dashes")]
    InvalidUid {
        /// What was given.
        uid: String,
    },
    /// The runtime's path cannot be used.
    #[error("cgroup path {path:?} {why}")]
    InvalidPath {
        /// What was given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No directory belongs to the pod.
    #[error(
        "no cgroup of pod {uid} below {root} ({directories} directories searched, {unreadable} unreadable); \
         does the kubelet run with --cgroups-per-qos, and is this the cgroup2 mount it uses?"
    )]
    NotFound {
        /// The pod.
        uid: PodUid,
        /// Where the search began.
        root: PathBuf,
        /// Directories read by the search.
        directories: usize,
        /// Directories that could not be read.
        unreadable: usize,
    },
    /// More than one directory belongs to the pod and nothing tells them apart.
    #[error(
        "pod {uid} has several cgroups: {first} and {second}; remove the one that is left over, or let the runtime tell \
         the right one (CNI capability cgroupPath)"
    )]
    Ambiguous {
        /// The pod.
        uid: PodUid,
        /// One of them.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// The directory is of another file system.
    #[error(
        "{path} is not on cgroup2; set the cgroup root to a directory of the cgroup2 mount, or leave it out to have it found"
    )]
    NotCgroup2 {
        /// The directory.
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

/// An open cgroup2 directory.
#[derive(Debug)]
pub struct CgroupDir {
    fd: OwnedFd,
    path: PathBuf,
    id: u64,
}

impl CgroupDir {
    /// Opens a directory and makes sure that it is on cgroup2. A symbolic link is refused.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotCgroup2`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { operation: "open", path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        if !on_cgroup2(&file).map_err(failed)? {
            return Err(Error::NotCgroup2 { path: path.to_owned() });
        }
        let id = file.metadata().map_err(failed)?.ino();
        Ok(Self { fd: file.into(), path: path.to_owned(), id })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Id of the cgroup: the directory's inode, on 64-bit kernels equal to `bpf_get_current_cgroup_id`.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl AsFd for CgroupDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Finds a pod's cgroup: by the runtime's own path, then where kubelets put it, then by a search.
///
/// `root` is a cgroup2 mount (or a directory on it). `hint` is the runtime's `cgroupPath`; it wins over the UID. A
/// directory that is not there yet is awaited for `patience`; zero looks once.
///
/// # Errors
/// Every kind of [`Error`]. [`Error::NotFound`] alone says that there is no such directory.
pub fn find(root: &Path, uid: &PodUid, hint: Option<&str>, patience: Duration) -> Result<CgroupDir, Error> {
    let hint = hint.map(confine).transpose()?.flatten();
    let deadline = Instant::now() + patience;
    let mut searched = false;
    loop {
        if let Some(found) = known(root, uid, hint.as_deref())? {
            return Ok(found);
        }
        let last = Instant::now() >= deadline;
        // The search costs a walk of the tree: at the first and at the last look only.
        if last || !searched {
            // What was found may be gone by now: it is looked for again.
            let found = scan::pod(root, uid).and_then(|path| open_existing(&path));
            match found {
                Ok(Some(found)) => return Ok(found),
                Ok(None) if last => return Err(not_found(root, uid)),
                Err(Error::NotFound { .. }) if !last => searched = true,
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a cgroup2 directory is the root of the whole hierarchy: that one alone has no type (kernel's cgroup-v2.rst,
/// "cgroup.type"). The root of a private cgroup namespace has one.
#[must_use]
pub fn is_hierarchy_root(path: &Path) -> bool {
    !path.join("cgroup.type").exists()
}

/// Whether the calling process is in this very cgroup.
#[must_use]
pub fn is_own(path: &Path) -> bool {
    let own = std::process::id().to_string();
    fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|pids| pids.lines().any(|pid| pid == own))
}

/// Looks for a pod's cgroup where kubelets put it and in further `places`, without a search.
///
/// # Errors
/// [`Error::Ambiguous`], [`Error::Io`], [`Error::NotCgroup2`].
pub fn look(root: &Path, uid: &PodUid, places: &BTreeSet<PathBuf>) -> Result<Option<CgroupDir>, Error> {
    if let Some(found) = known(root, uid, None)? {
        return Ok(Some(found));
    }
    for name in places.iter().flat_map(|place| names::in_place(place, uid)) {
        if let Some(found) = open_existing(&name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// That a look was in vain which was no search.
#[must_use]
pub fn not_found(root: &Path, uid: &PodUid) -> Error {
    Error::NotFound { uid: uid.clone(), root: root.to_owned(), directories: 0, unreadable: 0 }
}

/// The cgroups of all pods below `root`, by their names.
#[must_use]
pub fn pods(root: &Path) -> BTreeMap<PodUid, PathBuf> {
    scan::pods(root)
}

/// Directory of the pod in a cgroup v1 hierarchy: explains why cgroup2 has none.
#[must_use]
pub fn on_v1(mounts: &Mounts, uid: &PodUid, hint: Option<&str>) -> Option<PathBuf> {
    let hint = hint.and_then(|path| confine(path).ok()).flatten();
    let candidates: Vec<PathBuf> = hint.into_iter().chain(names::candidates(uid)).collect();
    mounts
        .cgroup_v1()
        .flat_map(|mount| candidates.iter().map(move |below| mount.join(below)))
        .find(|path| path.is_dir())
}

/// UID in the name of a pod's cgroup directory, whatever the driver; `None` for other names.
#[must_use]
pub fn uid_in_path(path: &str) -> Option<PodUid> {
    path.trim_end_matches('/').rsplit('/').next().and_then(names::uid_of)
}

/// UID in the name of a directory that may be a pod's, however short the UID is.
#[must_use]
pub fn uid_in_name(name: &str) -> Option<PodUid> {
    names::any_uid_of(name)
}

/// Looks where the directory has to be, without a search.
fn known(root: &Path, uid: &PodUid, hint: Option<&Path>) -> Result<Option<CgroupDir>, Error> {
    if let Some(hint) = hint {
        if let Some(found) = open_existing(&root.join(hint))? {
            return Ok(Some(found));
        }
        if let Some(found) = open_existing(&root.join(names::expand_slice(hint)))? {
            return Ok(Some(found));
        }
    }
    let mut found: Option<CgroupDir> = None;
    for below in names::candidates(uid) {
        let Some(next) = open_existing(&root.join(below))? else { continue };
        if let Some(first) = found {
            return Err(Error::Ambiguous { uid: uid.clone(), first: first.path, second: next.path });
        }
        found = Some(next);
    }
    Ok(found)
}

fn open_existing(path: &Path) -> Result<Option<CgroupDir>, Error> {
    match CgroupDir::open(path) {
        Ok(found) => Ok(Some(found)),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a runtime's path relative to the mount. An empty one says nothing.
fn confine(path: &str) -> Result<Option<PathBuf>, Error> {
    let refuse = |why| Err(Error::InvalidPath { path: path.to_owned(), why });
    if path.is_empty() {
        return Ok(None);
    }
    if path.contains('\0') {
        return refuse("contains a NUL byte");
    }
    let mut below = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return refuse("leaves the cgroup mount with `..`");
            }
        }
    }
    if below.as_os_str().is_empty() {
        return refuse("is the root cgroup, not a pod's");
    }
    Ok(Some(below))
}

/// Where an open directory is, as far as this process can see it.
fn path_of(fd: &OwnedFd) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}

fn on_cgroup2(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests;
