//! Where cgroup2 and bpffs are mounted.
//!
//! It reads the mount table of the calling process and can mount bpffs. It mounts nothing else and
//! never unmounts.

use std::{
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs},
};

/// Why a file system cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount table cannot be read.
    #[error("cannot read {path}: {source}")]
    Table {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No cgroup2 at all, or only version 1.
    #[error("no cgroup2 file system is mounted{}", v1_remark(.v1))]
    NoCgroup2 {
        /// Mount points of cgroup version 1.
        v1: Vec<PathBuf>,
    },
    /// statfs(2) failed.
    #[error("cannot examine the file system of {path}: {source}")]
    Examine {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// bpffs is not there and cannot be mounted.
    #[error(
        "{path} is not a bpffs and mounting one failed: {source}; mount it on the host with \
         `mount -t bpf bpf {path}` or run with CAP_SYS_ADMIN"
    )]
    MountBpffs {
        /// The mount point.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The mounts that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    cgroup2: Vec<Mount>,
    cgroup_v1: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    target: PathBuf,
    reach: Reach,
}

/// How much of the hierarchy a mount shows, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Its root lies above the reader's cgroup namespace: a host's mount inside a container.
    Above,
    /// The whole hierarchy, or all of it that the cgroup namespace shows.
    Whole,
    /// A bind mount of a part.
    Part,
}

impl Mounts {
    /// The mounts of this process.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn read() -> Result<Self, Error> {
        let path = PathBuf::from("/proc/self/mountinfo");
        match fs::read(&path) {
            Ok(table) => Ok(Self::parse(&table)),
            Err(source) => Err(Error::Table { path, source }),
        }
    }

    /// Reads the format of proc_pid_mountinfo(5). Lines that do not follow it are skipped.
    #[must_use]
    pub fn parse(table: &[u8]) -> Self {
        let mut mounts = Self::default();
        for line in table.split(|byte| *byte == b'\n') {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let Some(separator) = fields.iter().skip(6).position(|field| *field == b"-") else { continue };
            let Some(kind) = fields.get(6 + separator + 1) else { continue };
            let target = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields[4])));
            match *kind {
                b"cgroup2" => mounts.cgroup2.push(Mount { target, reach: reach(fields[3]) }),
                b"cgroup" => mounts.cgroup_v1.push(target),
                _ => {}
            }
        }
        // Stable: within one reach the order of the table stays.
        mounts.cgroup2.sort_by_key(|mount| mount.reach);
        mounts
    }

    /// Mount points of cgroup2, the one that shows most first.
    pub fn cgroup2(&self) -> impl Iterator<Item = &Path> {
        self.cgroup2.iter().map(|mount| mount.target.as_path())
    }

    /// Mount points of cgroup version 1: where there are some, pods may live there and not in cgroup2.
    pub fn cgroup_v1(&self) -> impl Iterator<Item = &Path> {
        self.cgroup_v1.iter().map(PathBuf::as_path)
    }

    /// The cgroup2 mount to use. A mount that another one hides is passed over.
    ///
    /// # Errors
    /// [`Error::NoCgroup2`].
    pub fn cgroup2_root(&self) -> Result<PathBuf, Error> {
        self.cgroup2()
            .find(|path| is_cgroup2(path).unwrap_or(false))
            .map(Path::to_owned)
            .ok_or_else(|| Error::NoCgroup2 { v1: self.cgroup_v1.clone() })
    }
}

/// Whether a path lies on cgroup2.
///
/// # Errors
/// [`Error::Examine`], for instance when the path does not exist.
pub fn is_cgroup2(path: &Path) -> Result<bool, Error> {
    Ok(file_system(path)? == CGROUP2_SUPER_MAGIC)
}

/// Whether a path lies on bpffs.
///
/// # Errors
/// [`Error::Examine`], for instance when the path does not exist.
pub fn is_bpffs(path: &Path) -> Result<bool, Error> {
    Ok(file_system(path)? == BPF_FS_MAGIC)
}

/// Makes sure that `path` lies on bpffs: makes the directory and mounts bpffs on it where it does not.
///
/// # Errors
/// [`Error::MountBpffs`].
pub fn ensure_bpffs(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::MountBpffs { path: path.to_owned(), source };
    if !path.exists() {
        fs::create_dir_all(path).map_err(failed)?;
    }
    if is_bpffs(path)? {
        return Ok(());
    }
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|errno| failed(errno.into()))
}

fn file_system(path: &Path) -> Result<FsType, Error> {
    statfs(path)
        .map(|found| found.filesystem_type())
        .map_err(|errno| Error::Examine { path: path.to_owned(), source: errno.into() })
}

/// The kernel shows a root outside the reader's cgroup namespace as a path that climbs.
fn reach(root: &[u8]) -> Reach {
    if root == b"/" {
        Reach::Whole
    } else if root.starts_with(b"/..") && root.split(|byte| *byte == b'/').skip(1).all(|part| part == b"..") {
        Reach::Above
    } else {
        Reach::Part
    }
}

/// The table writes blank, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

fn v1_remark(v1: &[PathBuf]) -> String {
    match v1.first() {
        Some(first) => format!(
            ": this host has only cgroup version 1 (at {}); boot it with \
             `systemd.unified_cgroup_hierarchy=1`, or mount cgroup2 and let the container runtime use it",
            first.display()
        ),
        None => "; mount it with `mount -t cgroup2 none /sys/fs/cgroup`".to_owned(),
    }
}

#[cfg(test)]
mod tests;
