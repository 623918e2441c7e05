//! Removes what the plugin has written down of pods that are gone: a runtime may never call DEL for them, nor GC.

use std::{fs, io, path::Path, time::Duration};

use balancing_dataplane::{
    cgroup::PodUid,
    links,
    records::{self, Dated},
};

use super::Attacher;

/// So old a record is before it counts as forgotten: an ADD writes it before it has made links, and a DEL may be on its way.
const GRACE: Duration = Duration::from_secs(60);

impl Attacher {
    /// Removes the records of pods that have neither links nor a cgroup, and what interrupted writes have left. Of a cgroup that is
    /// not below ours nobody knows here whether it is gone.
    pub(super) fn forget_orphans(&self) {
        let records = self.recorded.records();
        let listing = match records.read_all() {
            Ok(listing) => listing,
            Err(error) => return tracing::warn!("records of pods that are gone are not removed: {error}"),
        };
        let mut forgotten = 0;
        for (path, dated) in listing.into_files() {
            match self.forget(&path, &dated) {
                Ok(true) => forgotten += 1,
                Ok(false) => {}
                Err(error) => tracing::warn!("cannot remove {}: {error}", path.display()),
            }
        }
        let unfinished = records.sweep(GRACE);
        if forgotten + unfinished > 0 {
            tracing::info!(forgotten, unfinished, "records of pods that are gone are removed");
        }
    }

    fn forget(&self, path: &Path, seen: &Dated) -> io::Result<bool> {
        let uid = &seen.record.pod_uid;
        if !is_old(seen) || !self.is_gone(seen.record.cgroup.as_deref()) || self.has_links(uid) {
            return Ok(false);
        }
        // Whoever holds the lock is at work with the pod, and the record may be a new one by now.
        let Ok(Some(_lock)) = self.locks.try_acquire(uid) else { return Ok(false) };
        let now = records::read_file(path).map_err(io::Error::other)?;
        if now.as_ref() != Some(seen) {
            return Ok(false);
        }
        fs::remove_file(path)?;
        Ok(true)
    }

    fn is_gone(&self, cgroup: Option<&Path>) -> bool {
        cgroup.is_some_and(|cgroup| {
            let found = fs::symlink_metadata(cgroup);
            cgroup.starts_with(&self.cgroup_root)
                && found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        })
    }

    fn has_links(&self, uid: &PodUid) -> bool {
        links::pods(&self.layout).is_ok_and(|pods| pods.iter().any(|(other, _)| other == uid))
    }
}

fn is_old(dated: &Dated) -> bool {
    let grace = u64::try_from(GRACE.as_nanos()).unwrap_or(u64::MAX);
    records::now().saturating_sub(dated.record.written) > grace
}
