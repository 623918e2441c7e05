//! File → manifest.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    num::NonZeroUsize,
    os::unix::fs::MetadataExt as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::manifest::{self, Format, Manifest, ManifestError};

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
    pub(super) path: PathBuf,
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
pub(super) fn read_all(paths: &[PathBuf], size_limit: u64) -> Vec<Reading> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS);
    let threads = cores.min(paths.len() / FILES_PER_THREAD).max(1);
    if threads == 1 {
        return paths.iter().map(|path| read(path, size_limit)).collect();
    }
    let chunk = paths.len().div_ceil(threads);
    thread::scope(|scope| {
        let read_chunk =
            |paths: &[PathBuf]| paths.iter().map(|path| read(path, size_limit)).collect::<Vec<_>>();
        let workers: Vec<_> = paths.chunks(chunk).map(|part| scope.spawn(move || read_chunk(part))).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

fn read(path: &Path, size_limit: u64) -> Reading {
    let mut stamp = None;
    let result = read_text(path, size_limit, &mut stamp).and_then(|text| {
        let format = Format::of(path).unwrap_or(Format::Yaml);
        Ok(manifest::parse(&text, format)?)
    });
    Reading { path: path.to_path_buf(), stamp, result }
}

/// Reads the text. The stamp is taken first: what changes while it is read differs from it.
fn read_text(path: &Path, size_limit: u64, stamp: &mut Option<Stamp>) -> Result<String, ReadError> {
    // Opening a pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
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
