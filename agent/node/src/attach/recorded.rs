//! What the plugin has written down, kept at hand: a node has hundreds of records, and each change concerns one.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use balancing_dataplane::{
    cgroup::PodUid,
    records::{self, Dated, Record, Records, State},
};

/// The records, as they were when each was read last.
#[derive(Debug)]
pub(super) struct Recorded {
    records: Records,
    files: BTreeMap<PathBuf, Dated>,
    newest: BTreeMap<PodUid, Record>,
}

impl Recorded {
    /// Nothing is read yet.
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { records: Records::new(run_dir), files: BTreeMap::new(), newest: BTreeMap::new() }
    }

    /// Directory of all networks, made where the plugin has not come to it yet, so that it can be watched.
    pub(super) fn dir(&self) -> &Path {
        let dir = self.records.dir();
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o755).create(dir) {
            tracing::debug!("cannot make {}: {error}", dir.display());
        }
        dir
    }

    /// Where they are.
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Reads everything. Unreadable records are the plugin's business.
    pub(super) fn read_all(&mut self) {
        self.files =
            self.records.read_all().map(|listing| listing.into_files().collect()).unwrap_or_default();
        self.newest = records::newest(self.files.values().cloned());
    }

    /// Reads a file that has changed or is gone. Returns the pods that it told or tells of.
    pub(super) fn read(&mut self, path: &Path) -> Vec<PodUid> {
        let before = self.files.remove(path);
        let now = records::read_file(path).ok().flatten();
        let pods: Vec<PodUid> = before.iter().chain(&now).map(|dated| dated.record.pod_uid.clone()).collect();
        if let Some(now) = now {
            self.files.insert(path.to_owned(), now);
        }
        for uid in &pods {
            let of_pod = self.files.values().filter(|dated| dated.record.pod_uid == *uid);
            match records::newest(of_pod.cloned()).remove(uid) {
                Some(record) => drop(self.newest.insert(uid.clone(), record)),
                None => drop(self.newest.remove(uid)),
            }
        }
        pods
    }

    /// The newest record of a pod.
    pub(super) fn of(&self, uid: &PodUid) -> Option<&Record> {
        self.newest.get(uid)
    }
}

/// Whether the plugin's own configuration excluded the namespace of the pod, or decided not to; `None`: it left that to the
/// settings of the node.
pub(super) fn namespace_excluded(record: &Record) -> Option<bool> {
    // Plugins before this field excluded by their own list only, and said so.
    let earlier = || match &record.state {
        State::Excluded(why) if why.ends_with("excluded by excludeNamespaces") => Some(true),
        _ => None,
    };
    record.namespace_excluded.or_else(earlier)
}
