//! Bounded walks of the cgroup tree, breadth first.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    os::unix::fs::DirEntryExt,
    path::{Path, PathBuf},
};

use super::{Error, PodUid, names};

/// Deeper than any kubelet's root; a kubelet nested in a container is still found.
const DEPTH: usize = 8;
/// Directories that are read in the search for one pod: some milliseconds.
const DIRECTORIES: usize = 4_000;
/// Directories that are read to learn which cgroups live: above any node's number of cgroups.
const ALL_DIRECTORIES: usize = 200_000;

/// Finds the directory whose name tells the pod's UID. The shallowest counts: deeper ones are a nested kubelet's.
pub(super) fn pod(root: &Path, uid: &PodUid) -> Result<PathBuf, Error> {
    let mut found: Option<(PathBuf, usize)> = None;
    let mut second: Option<PathBuf> = None;
    let walk = walk(root, DEPTH, DIRECTORIES, |path, name, depth, _inode| {
        match &found {
            Some((_, at)) if depth > *at => return Step::Stop,
            Some(_) if names::is_of(name, uid) => second = Some(path.to_owned()),
            None if names::is_of(name, uid) => found = Some((path.to_owned(), depth)),
            Some(_) | None => {}
        }
        // What lies in a pod is its containers.
        if names::uid_of(name).is_some() { Step::Over } else { Step::Into }
    });
    match (found, second) {
        (Some((first, _)), Some(second)) => Err(Error::Ambiguous { uid: uid.clone(), first, second }),
        (Some((path, _)), None) => Ok(path),
        (None, _) => Err(Error::NotFound {
            uid: uid.clone(),
            root: root.to_owned(),
            directories: walk.directories,
            unreadable: walk.unreadable,
        }),
    }
}

/// Every directory whose name tells a pod's UID. The shallowest counts.
pub(super) fn pods(root: &Path) -> BTreeMap<PodUid, PathBuf> {
    let mut found = BTreeMap::new();
    walk(root, DEPTH, DIRECTORIES, |path, name, _depth, _inode| match names::uid_of(name) {
        Some(uid) => {
            found.entry(uid).or_insert_with(|| path.to_owned());
            Step::Over
        }
        None => Step::Into,
    });
    found
}

/// Which of the `wanted` cgroup ids still have a directory. `None` when the tree is too large to know.
#[must_use]
pub(super) fn live_cgroups(root: &Path, wanted: &BTreeSet<u64>) -> Option<BTreeSet<u64>> {
    let mut live = BTreeSet::new();
    if wanted.is_empty() {
        return Some(live);
    }
    let walk = walk(root, usize::MAX, ALL_DIRECTORIES, |_path, _name, _depth, inode| {
        if wanted.contains(&inode) {
            live.insert(inode);
        }
        if live.len() == wanted.len() { Step::Stop } else { Step::Into }
    });
    (walk.complete && walk.unreadable == 0 || live.len() == wanted.len()).then_some(live)
}

enum Step {
    Into,
    Over,
    Stop,
}

struct Walk {
    directories: usize,
    unreadable: usize,
    /// Whether every directory within the depth was read.
    complete: bool,
}

/// Shows each directory below `root` with its name, depth (1 = child of the root) and inode.
fn walk(
    root: &Path,
    depth: usize,
    limit: usize,
    mut visit: impl FnMut(&Path, &str, usize, u64) -> Step,
) -> Walk {
    let mut walk = Walk { directories: 0, unreadable: 0, complete: false };
    let mut queue = VecDeque::from([(root.to_owned(), 0)]);
    while let Some((directory, level)) = queue.pop_front() {
        if walk.directories == limit {
            return walk;
        }
        walk.directories += 1;
        let Ok(entries) = fs::read_dir(&directory) else {
            // Gone since it was listed, or forbidden: a sibling must not end the search.
            walk.unreadable += usize::from(directory.exists());
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            match visit(&path, &entry.file_name().to_string_lossy(), level + 1, entry.ino()) {
                Step::Stop => return walk,
                Step::Into if level + 1 < depth => queue.push_back((path, level + 1)),
                Step::Into | Step::Over => {}
            }
        }
    }
    walk.complete = true;
    walk
}
