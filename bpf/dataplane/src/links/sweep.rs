//! Removal of what nobody will come back for: unfinished directories, and links of cgroups that are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{Error, Locks, TEMPORARY, discard, inspect, names, pods, remove};
use crate::{
    cgroup::{self, PodUid},
    layout::Layout,
};

/// What a sweep removed.
#[derive(Debug, Default)]
pub struct Swept {
    /// Unfinished directories.
    pub unfinished: Vec<PathBuf>,
    /// Pods whose cgroup is gone; their records are of no use either.
    pub pods: Vec<PodUid>,
    /// Pods whose cgroup is there, by the ids that their links tell: so nobody has to open the links again.
    pub alive: BTreeMap<PodUid, BTreeSet<u64>>,
    /// What could not be removed; the rest was.
    pub failed: Vec<Error>,
}

/// Removes unfinished directories, the links of removed cgroups and the locks of killed calls. A pod that is locked is left for
/// the next sweep.
///
/// `cgroup_root` is any directory of the hierarchy: a pod lives as long as its cgroup has a directory, wherever that is.
///
/// # Errors
/// [`Error::Io`] when the pods cannot be listed, [`Error::Cgroup`]; see [`Swept::failed`] for the others.
pub fn sweep(layout: &Layout, cgroup_root: &Path, locks: &Locks) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    for name in names(&layout.pods())? {
        let Some(uid) = name.strip_prefix(TEMPORARY).and_then(|uid| PodUid::new(uid).ok()) else { continue };
        let path = layout.pods().join(name);
        match locked(locks, &uid, || discard(&path)) {
            Ok(true) => swept.unfinished.push(path),
            Ok(false) => {}
            Err(error) => swept.failed.push(error),
        }
    }
    let (gone, alive) = tell_apart(layout, cgroup_root, &mut swept.failed)?;
    swept.alive = alive.into_iter().map(|(uid, (_, ids))| (uid, ids)).collect();
    for (uid, (path, ids)) in gone {
        match locked(locks, &uid, || remove_unchanged(&path, &ids)) {
            Ok(true) => swept.pods.push(uid),
            Ok(false) => {}
            Err(error) => swept.failed.push(error),
        }
    }
    // Whoever takes a lock removes its file with it.
    for uid in locks.held()? {
        swept.failed.extend(locks.try_acquire(&uid).err());
    }
    Ok(swept)
}

type Linked = BTreeMap<PodUid, (PathBuf, BTreeSet<u64>)>;

/// Pods none of whose links has a cgroup directory, and the others, with the cgroup ids that were seen.
fn tell_apart(
    layout: &Layout,
    cgroup_root: &Path,
    failed: &mut Vec<Error>,
) -> Result<(Linked, Linked), Error> {
    let mut pods_ids = Linked::new();
    for (uid, path) in pods(layout)? {
        match ids(&path) {
            Ok(ids) => drop(pods_ids.insert(uid, (path, ids))),
            Err(error) => failed.push(error),
        }
    }
    let wanted: BTreeSet<u64> =
        pods_ids.values().flat_map(|(_, ids)| ids).copied().filter(|id| *id != 0).collect();
    let gone = cgroup::gone(cgroup_root, &wanted)?;
    let is_gone = |(_, (_, ids)): &(PodUid, (PathBuf, BTreeSet<u64>))| {
        ids.iter().all(|id| *id == 0 || gone.contains(id))
    };
    Ok(pods_ids.into_iter().partition(is_gone))
}

/// Removes a directory unless somebody has attached it to another cgroup meanwhile.
fn remove_unchanged(path: &Path, seen: &BTreeSet<u64>) -> Result<bool, Error> {
    let now = ids(path)?;
    if now.iter().all(|id| *id == 0 || seen.contains(id)) { remove(path) } else { Ok(false) }
}

fn ids(dir: &Path) -> Result<BTreeSet<u64>, Error> {
    Ok(inspect(dir)?.values().map(|state| state.cgroup_id).collect())
}

/// Runs `work` under the pod's lock, or not at all.
fn locked(locks: &Locks, uid: &PodUid, work: impl FnOnce() -> Result<bool, Error>) -> Result<bool, Error> {
    match locks.try_acquire(uid)? {
        Some(_lock) => work(),
        None => Ok(false),
    }
}
