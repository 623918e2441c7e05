//! Whether cgroups still have a directory, by their ids.
//!
//! A path proves nothing: a process may see only a part of the hierarchy, and the plugin another one than the agent. A link's
//! cgroup id proves nothing either: it stays while a socket holds a removed cgroup.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use super::{CgroupDir, Error, is_hierarchy_root, scan};
use crate::sys;

/// Which of the `wanted` cgroups certainly have no directory any more. `any` is a directory of the hierarchy.
///
/// # Errors
/// [`Error::Io`], [`Error::NotCgroup2`] when `any` cannot be used.
pub fn gone(any: &Path, wanted: &BTreeSet<u64>) -> Result<BTreeSet<u64>, Error> {
    let mut gone = BTreeSet::new();
    if wanted.is_empty() {
        return Ok(gone);
    }
    let directory = CgroupDir::open(any)?;
    let mut unknown = BTreeSet::new();
    for id in wanted {
        match open(&directory, *id) {
            Ok(Some(_)) => {}
            Ok(None) => drop(gone.insert(*id)),
            Err(_) => drop(unknown.insert(*id)),
        }
    }
    // Without the right to ask, only a walk through everything tells.
    if !unknown.is_empty()
        && is_hierarchy_root(any)
        && let Some(live) = scan::live_cgroups(any, &unknown)
    {
        gone.extend(unknown.difference(&live));
    }
    Ok(gone)
}

/// Opens the cgroup of an id, wherever it is; `None`: it has no directory any more. `any` is a directory of the hierarchy.
///
/// # Errors
/// [`Error::Io`], also without `CAP_DAC_READ_SEARCH`; [`Error::NotCgroup2`].
pub fn by_id(any: &Path, id: u64) -> Result<Option<CgroupDir>, Error> {
    let directory = CgroupDir::open(any)?;
    let failed = |source| Error::Io { operation: "open by its id a cgroup of", path: any.to_owned(), source };
    let Some(fd) = open(&directory, id).map_err(failed)? else { return Ok(None) };
    // Only to name it: a directory that the caller cannot see has no path of use.
    let path = super::path_of(&fd).unwrap_or_else(|| any.to_owned());
    Ok(Some(CgroupDir { fd, path, id }))
}

fn open(any: &CgroupDir, id: u64) -> io::Result<Option<OwnedFd>> {
    match sys::open_cgroup(any.as_fd(), id) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok(None),
        Err(error) => Err(error),
    }
}
