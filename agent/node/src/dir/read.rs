//! File → manifest.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    num::NonZeroUsize,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    panic::resume_unwind,
    path::Path,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::fcntl::OFlag;

use super::path::FilePath;
use balancing_core::manifest::{self, Format, Manifest, ManifestError};

/// Fewer files than this are not worth a thread.
const FILES_PER_THREAD: usize = 64;
/// Parsing is short; more threads would only take the machine from others.
const MOST_THREADS: usize = 4;

/// Tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds; the change time also tells contents apart whose modification time was set by hand.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What reading a file came to.
pub(super) struct Reading {
    pub(super) path: FilePath,
    /// Of the content that was read or refused; `None` when it changed so recently that the stamp proves nothing.
    pub(super) stamp: Option<Stamp>,
    pub(super) result: Result<Manifest, ReadError>,
}

/// Why a file has no objects. The objects it had before are kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}; its last objects are kept")]
    Io(#[from] io::Error),
    /// It is no regular file.
    #[error("is not a regular file; replace it, its last objects are kept")]
    NotAFile,
    /// The size is beyond the limit.
    #[error("has {size} bytes, the limit is {limit}; split it, its last objects are kept")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// Bytes.
        limit: u64,
    },
    /// The text is not UTF-8.
    #[error("is not UTF-8 text (byte {0}); convert it, its last objects are kept")]
    NotText(usize),
    /// The text is not YAML or JSON.
    #[error("{0}; correct it, the last objects of the file are kept")]
    Manifest(#[from] ManifestError),
}

/// More than a tick of the clock that file systems take their times from (10 ms at 100 Hz): a file that changed
/// longer ago than this gets another stamp with its next change.
const CLOCK_TICK: Duration = Duration::from_millis(20);

impl Stamp {
    /// The stamp of a file with this metadata.
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// The stamp, unless the file can change once more without getting another one.
    fn proven(self) -> Option<Self> {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        (changed + CLOCK_TICK < now).then_some(self)
    }
}

/// Reads and parses files, in the order of `paths`. Many files are shared among a few threads.
pub(super) fn read_all(paths: &[FilePath], size_limit: u64) -> Vec<Reading> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS);
    let threads = cores.min(paths.len() / FILES_PER_THREAD).max(1);
    if threads == 1 {
        return paths.iter().map(|path| read(path, size_limit)).collect();
    }
    let chunk = paths.len().div_ceil(threads);
    thread::scope(|scope| {
        let read_chunk =
            |paths: &[FilePath]| paths.iter().map(|path| read(path, size_limit)).collect::<Vec<_>>();
        let workers: Vec<_> = paths.chunks(chunk).map(|part| scope.spawn(move || read_chunk(part))).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

fn read(path: &FilePath, size_limit: u64) -> Reading {
    let mut stamp = None;
    let result = read_text(path, size_limit, &mut stamp).and_then(|text| {
        let format = Format::of(path).unwrap_or(Format::Yaml);
        Ok(manifest::parse(&text, format)?)
    });
    Reading { path: path.clone(), stamp, result }
}

/// Reads the text. The stamp is taken first: what changes while it is read differs from it.
fn read_text(path: &Path, size_limit: u64, stamp: &mut Option<Stamp>) -> Result<String, ReadError> {
    // Without O_NONBLOCK, opening a pipe would wait for its writer.
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile);
    }
    *stamp = Stamp::of(&metadata).proven();
    let too_large = |size| ReadError::TooLarge { size, limit: size_limit };
    if metadata.size() > size_limit {
        return Err(too_large(metadata.size()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.size()).unwrap_or_default());
    let read = file.take(size_limit + 1).read_to_end(&mut bytes);
    if let Err(error) = read {
        *stamp = None;
        return Err(error.into());
    }
    if bytes.len() as u64 > size_limit {
        return Err(too_large(bytes.len() as u64));
    }
    String::from_utf8(bytes).map_err(|error| ReadError::NotText(error.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_proves_something_only_after_the_clock_has_ticked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.path().metadata().unwrap());
        let shifted = |seconds| Stamp { changed: (stamp.changed.0 + seconds, stamp.changed.1), ..stamp };
        assert_eq!(shifted(-1).proven(), Some(shifted(-1)));
        assert_eq!(shifted(1).proven(), None);
    }

    #[test]
    fn many_files_come_in_order() {
        let dir = tempfile::TempDir::new().unwrap();
        let paths: Vec<_> = (0..FILES_PER_THREAD * 5 + 1)
            .map(|i| {
                let path = dir.path().join(format!("{i:04}.yaml"));
                std::fs::write(&path, format!("{{apiVersion: v1, kind: Node, metadata: {{name: n{i}}}}}"))
                    .unwrap();
                FilePath::from(path)
            })
            .collect();
        let readings = read_all(&paths, 1000);
        assert_eq!(readings.iter().map(|r| r.path.clone()).collect::<Vec<_>>(), paths);
        assert!(readings.iter().all(|r| r.result.as_ref().is_ok_and(|m| m.objects.len() == 1)));
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_its_writer() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("pipe.yaml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let readings = read_all(&[path.into()], 1000);
        assert!(matches!(readings[0].result, Err(ReadError::NotAFile)));
    }
}
