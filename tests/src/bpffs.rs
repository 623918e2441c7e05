//! Directories for pinned BPF objects.

use std::{
    fs,
    path::{Path, PathBuf},
};

use balancing_dataplane::mount::ensure_bpffs;

use crate::{
    leftovers::{orphans, unique_name},
    must::Must,
};

/// Where the kernel expects bpffs.
const MOUNT: &str = "/sys/fs/bpf";

/// A directory of its own on bpffs. It goes on drop with every pin below it, and with the pins what only
/// they held: programs, maps, links.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// A new directory. Mounts bpffs where it is expected when it is not there yet.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let mount = Path::new(MOUNT);
        ensure_bpffs(mount).must("use bpffs");
        for orphan in orphans(mount) {
            fs::remove_dir_all(orphan).ok();
        }
        let path = mount.join(unique_name(topic));
        fs::create_dir(&path).must(format_args!("create {}", path.display()));
        Self { path }
    }

    /// Where it is: a value for the agent's `--bpffs`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require_kernel;

    #[test]
    fn goes_with_what_is_in_it() {
        if !require_kernel() {
            return;
        }
        let bpffs = Bpffs::new("bpffs");
        let path = bpffs.path().to_owned();
        fs::create_dir_all(path.join("deep/er")).unwrap();
        assert!(balancing_dataplane::mount::is_bpffs(&path).unwrap());
        drop(bpffs);
        assert!(!path.exists());
    }
}
