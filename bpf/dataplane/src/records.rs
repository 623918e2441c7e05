//! What the CNI plugin remembers of each attachment: `<run-dir>/cni/<network>/<containerID>_<ifname>.json`.
//!
//! The plugin writes and removes records under the pod's lock; the agent reads them. They are no source of
//! truth for links, which speak for themselves. The directory is on tmpfs: after a reboot neither records
//! nor links are left.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt, DirEntryExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use self::names::encode;
use crate::cgroup::PodUid;

mod names;

/// End of a record's name.
const RECORD: &str = ".json";
/// End of the name of a record that is being written.
const UNFINISHED: &str = ".tmp";

/// Why records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// The content is not a record.
    #[error("{path} is not a record of an attachment: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What CNI identifies an attachment by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_CONTAINERID`: the sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// How far an attachment came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state", content = "reason")]
pub enum State {
    /// The pod's links were made, or an interrupted ADD was about to: they speak for themselves.
    Attached,
    /// They were not, and the pod may run (`failurePolicy: ignore`): the agent attaches it. Holds the reason.
    Pending(String),
    /// They must not be made: an excluded namespace or an annotation. Holds the reason.
    Excluded(String),
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its identity.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// UID of the pod, as the runtime told it.
    #[serde(with = "uid_text")]
    pub pod_uid: PodUid,
    /// Namespace of the pod; empty when the runtime did not tell.
    #[serde(default)]
    pub pod_namespace: String,
    /// Name of the pod; empty when the runtime did not tell.
    #[serde(default)]
    pub pod_name: String,
    /// The pod's cgroup2 directory, once it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// `SO_NETNS_COOKIE` of the pod's network namespace, where the kernel has it and it is not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
    /// How the plugin's own configuration settled whether the pod's namespace is excluded; `None`: it has no list of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_excluded: Option<bool>,
    /// When it was written, in nanoseconds of `CLOCK_BOOTTIME`: no step of the clock puts it out of order. 0: not told.
    #[serde(default)]
    pub written: u64,
    /// How far it came.
    #[serde(flatten)]
    pub state: State,
}

/// All that was found in a directory of records.
#[derive(Debug, Default)]
pub struct Listing {
    /// The records, by network, container and interface.
    pub records: Vec<Record>,
    /// The files they are in, in the same order.
    files: Vec<(PathBuf, SystemTime)>,
    /// Files that are no records or cannot be read.
    pub broken: Vec<Error>,
}

/// A record and when it was written: a sandbox that was replaced may not be forgotten yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// When.
    pub written: SystemTime,
    /// What.
    pub record: Record,
}

/// What [`Record::written`] tells of a record that is written now.
#[must_use]
pub fn now() -> u64 {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX)
}

impl Listing {
    /// The records by their files.
    pub fn into_files(self) -> impl Iterator<Item = (PathBuf, Dated)> {
        let files = self.files.into_iter().zip(self.records);
        files.map(|((path, written), record)| (path, Dated { written, record }))
    }

    /// The record of each pod that was written last.
    #[must_use]
    pub fn newest(self) -> BTreeMap<PodUid, Record> {
        newest(self.into_files().map(|(_, dated)| dated))
    }
}

/// The record of each pod that was written last.
#[must_use]
pub fn newest(records: impl Iterator<Item = Dated>) -> BTreeMap<PodUid, Record> {
    let mut records: Vec<Dated> = records.collect();
    records.sort_by_key(|dated| (dated.record.written, dated.written));
    records.into_iter().map(|dated| (dated.record.pod_uid.clone(), dated.record)).collect()
}

/// The pods of records, by their files: a record that is written anew is another file.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<(PathBuf, u64), PodUid>);

/// The records below one run directory.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// The records below `run_dir`. Nothing is made yet.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { dir: run_dir.join("cni") }
    }

    /// Directory of all networks' records: what a watcher watches.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes or replaces a record. Readers see the old or the new one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.attachment, RECORD);
        let temporary = self.path(&record.attachment, UNFINISHED);
        let content =
            serde_json::to_vec(record).map_err(|source| Error::Content { path: path.clone(), source })?;
        let network = self.network(&record.attachment.network);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&network)
            .map_err(io_error("make the directory", &network))?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&content))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(io_error("write", &path))
    }

    /// One record; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Content`], [`Error::Io`].
    pub fn get(&self, attachment: &Attachment) -> Result<Option<Record>, Error> {
        read(&self.path(attachment, RECORD))
    }

    /// Removes a record and what an interrupted write left. `false`: there was none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, attachment: &Attachment) -> Result<bool, Error> {
        let mut found = false;
        for end in [UNFINISHED, RECORD] {
            let path = self.path(attachment, end);
            match fs::remove_file(&path) {
                Ok(()) => found |= end == RECORD,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io_error("remove", &path)(source)),
            }
        }
        Ok(found)
    }

    /// Every record of every network.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be listed; see [`Listing::broken`] for single files.
    pub fn read_all(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        for network in list(&self.dir)? {
            if network.is_dir() {
                read_network(&network, &mut listing)?;
            }
        }
        Ok(listing)
    }

    /// The records of one network.
    ///
    /// # Errors
    /// As [`Self::read_all`].
    pub fn read_network(&self, network: &str) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        read_network(&self.network(network), &mut listing)?;
        Ok(listing)
    }

    /// Removes what writes have left that were interrupted so long ago; how many there were. What cannot be removed is left for the
    /// next time.
    #[must_use]
    pub fn sweep(&self, age: Duration) -> usize {
        let files = list(&self.dir)
            .unwrap_or_default()
            .into_iter()
            .flat_map(|network| list(&network).unwrap_or_default());
        let is_left = |path: &PathBuf| {
            let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
            path.extension().is_some_and(|end| end == &UNFINISHED[1..])
                && modified.is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed > age))
        };
        files.filter(is_left).filter(|path| fs::remove_file(path).is_ok()).count()
    }

    /// How many attachments a pod has: it keeps its links while there is one. Records that were seen before are not read again,
    /// for whoever asks for many pods.
    ///
    /// # Errors
    /// As [`Self::read_all`].
    pub fn references(&self, uid: &PodUid, seen: &mut Seen) -> Result<usize, Error> {
        let mut references = 0;
        for network in list(&self.dir)? {
            for file in files(&network)? {
                let of = match seen.0.get(&file) {
                    Some(of) => of.clone(),
                    None => {
                        let Ok(Some(Dated { record, .. })) = read_file(&file.0) else { continue };
                        seen.0.insert(file, record.pod_uid.clone());
                        record.pod_uid
                    }
                };
                references += usize::from(of == *uid);
            }
        }
        Ok(references)
    }

    fn network(&self, name: &str) -> PathBuf {
        self.dir.join(encode(name))
    }

    fn path(&self, attachment: &Attachment, end: &str) -> PathBuf {
        let name = format!("{}_{}{end}", encode(&attachment.container_id), encode(&attachment.ifname));
        self.network(&attachment.network).join(name)
    }
}

fn read_network(dir: &Path, listing: &mut Listing) -> Result<(), Error> {
    for path in list(dir)? {
        if path.extension().is_none_or(|end| end != &RECORD[1..]) {
            continue;
        }
        match read_file(&path) {
            Ok(Some(Dated { written, record })) => {
                listing.records.push(record);
                listing.files.push((path, written));
            }
            Ok(None) => {}
            Err(error) => listing.broken.push(error),
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<Record>, Error> {
    Ok(read_file(path)?.map(|dated| dated.record))
}

/// The record in a file; `None` when there is none.
///
/// # Errors
/// [`Error::Content`], [`Error::Io`].
pub fn read_file(path: &Path) -> Result<Option<Dated>, Error> {
    let read = || {
        let mut file = fs::File::open(path)?;
        let (mut content, written) = (Vec::new(), file.metadata()?.modified()?);
        file.read_to_end(&mut content)?;
        Ok::<_, io::Error>((content, written))
    };
    let (content, written) = match read() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", path)(source)),
    };
    let record = serde_json::from_slice(&content)
        .map_err(|source| Error::Content { path: path.to_owned(), source })?;
    Ok(Some(Dated { written, record }))
}

/// Paths in a directory, sorted; none when there is no directory.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error("list", dir)(source)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(io_error("list", dir))?;
    paths.sort();
    Ok(paths)
}

/// The files of a network's records, with their inodes.
fn files(network: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    let entries = match fs::read_dir(network) {
        Ok(entries) => entries,
        // Also what is no directory: it holds no records.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(io_error("list", network)(source)),
    };
    let file = |entry: fs::DirEntry| {
        let path = entry.path();
        path.extension().is_some_and(|end| end == &RECORD[1..]).then(|| (path, entry.ino()))
    };
    entries
        .filter_map(|entry| entry.map(file).transpose())
        .collect::<io::Result<_>>()
        .map_err(io_error("list", network))
}

fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

/// A UID in a record is checked again when it is read: it becomes part of paths.
mod uid_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::cgroup::PodUid;

    pub(super) fn serialize<S: Serializer>(uid: &PodUid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(uid.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PodUid, D::Error> {
        PodUid::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
