//! Takes over what an agent of another ABI left: links move, and get our programs without a gap; what is left is removed.

use std::{fs, io, path::Path};

use balancing_dataplane::{cgroup::PodUid, layout::Layout, links};

use super::{AttachError, Attacher, PATIENCE};

impl Attacher {
    /// Moves the pods' links of other ABIs here; they get our programs without a gap. Returns what failed, in words.
    pub(super) fn take_over_pods(&self) -> Result<Vec<(String, String)>, AttachError> {
        let mut stuck = Vec::new();
        for old in self.older()? {
            for (uid, dir) in links::pods(&old)? {
                let to = self.layout.pods().join(uid.as_str());
                let lock = self.locks.acquire(&uid, PATIENCE).map_err(AttachError::from);
                if let Err(error) = lock.and_then(|_lock| move_dir(&dir, &to)) {
                    stuck.push((uid.to_string(), error.to_string()));
                }
            }
        }
        Ok(stuck)
    }

    /// Two ABIs at one pod would both translate. A call of the plugin that had opened older programs before they were replaced may
    /// have made links after the others were moved. The caller holds the pod's lock, and has made ours.
    pub(super) fn detach_older(&self, uid: &PodUid) -> Result<(), AttachError> {
        for old in self.older()? {
            links::remove(&old.pods().join(uid.as_str()))?;
        }
        Ok(())
    }

    pub(super) fn older(&self) -> Result<Vec<Layout>, AttachError> {
        let all = links::layouts(self.layout.bpffs())?;
        Ok(all.into_iter().filter(|layout| layout.abi() != self.layout.abi()).collect())
    }

    /// Whether an agent of another ABI left something.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn has_older(&self) -> Result<bool, AttachError> {
        Ok(!self.older()?.is_empty())
    }

    /// Removes what other ABIs left, once none of their links is in use.
    ///
    /// # Errors
    /// A directory that cannot be read or removed.
    pub fn remove_older(&self) -> Result<(), AttachError> {
        for old in self.older()? {
            if !links::pods(&old)?.is_empty() {
                continue;
            }
            let path = old.root();
            fs::remove_dir_all(&path).map_err(|source| AttachError::Takeover {
                operation: "remove",
                path,
                source,
            })?;
            tracing::info!(abi = old.abi(), "the older data plane is removed");
        }
        Ok(())
    }
}

/// Moves a directory of pins; an empty place is filled, a taken one keeps what it has.
pub(super) fn move_dir(from: &Path, to: &Path) -> Result<(), AttachError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| AttachError::Takeover { operation, path, source }
    };
    if !has_entries(from)? {
        return Ok(());
    }
    let is_empty = |path: &Path| fs::read_dir(path).map(|mut entries| entries.next().is_none());
    match is_empty(to) {
        Ok(true) => fs::remove_dir(to).map_err(failed("replace", to))?,
        Ok(false) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("read", to)(e)),
    }
    fs::rename(from, to).map_err(failed("move", from))
}

/// Whether there is anything in a directory; `false` also when it is not there.
fn has_entries(path: &Path) -> Result<bool, AttachError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(AttachError::Takeover { operation: "read", path: path.to_owned(), source }),
    }
}
