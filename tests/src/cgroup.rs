//! Cgroups of a test.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use balancing_dataplane::mount::Mounts;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    leftovers::{orphans, unique_name},
    must::Must,
};

/// How long killed processes may take to leave a cgroup.
const LEAVE: Duration = Duration::from_secs(30);

/// A cgroup (version 2) of its own. On drop its processes are killed, the test itself is moved back to
/// where it was, and the cgroup is removed with all cgroups below it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Where the test's own process was before it entered.
    origin: Option<PathBuf>,
    /// Children go with their parent, which knows nothing of the values that name them.
    removes: bool,
}

impl Cgroup {
    /// A new cgroup directly below the root of the cgroup2 mount. The topic becomes part of its name.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let root = root();
        for orphan in orphans(&root) {
            remove(&orphan);
        }
        Self::create(root.join(unique_name(topic)), true)
    }

    /// A cgroup below this one, with exactly this name, which may have several levels
    /// (`kubepods/besteffort/pod…`). It is removed when this one is.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self::create(self.path.join(name), false)
    }

    fn create(path: PathBuf, removes: bool) -> Self {
        fs::create_dir_all(&path).must(format_args!("create cgroup {}", path.display()));
        Self { path, origin: None, removes }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id the kernel knows it by: the inode number of its directory.
    #[must_use]
    pub fn id(&self) -> u64 {
        fs::metadata(&self.path).must(format_args!("examine {}", self.path.display())).ino()
    }

    /// Moves a process into it, with all its threads. Sockets it already has keep their cgroup.
    pub fn add(&self, pid: u32) {
        move_into(&self.path, pid).must(format_args!("move process {pid} into {}", self.path.display()));
    }

    /// Moves the test's own process into it, until the drop.
    pub fn enter(&mut self) {
        let origin = own_cgroup();
        self.add(process::id());
        self.origin.get_or_insert(origin);
    }

    /// The processes directly in it.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        processes(&self.path)
    }

    /// Kills the processes in it and below it, waits until they have left, and removes it, as a runtime
    /// does when a pod ends.
    pub fn remove(mut self) {
        self.removes = true;
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(origin) = &self.origin {
            move_into(origin, process::id()).ok();
        }
        if self.removes {
            remove(&self.path);
        }
    }
}

/// The root of the cgroup2 hierarchy.
fn root() -> PathBuf {
    Mounts::read().and_then(|mounts| mounts.cgroup2_root()).must("find cgroup2")
}

fn own_cgroup() -> PathBuf {
    let table = fs::read_to_string("/proc/self/cgroup").must("read /proc/self/cgroup");
    let path = table.lines().find_map(|line| line.strip_prefix("0::/")).must("find the test's own cgroup");
    root().join(path)
}

fn move_into(cgroup: &Path, pid: u32) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())
}

fn processes(cgroup: &Path) -> Vec<u32> {
    let list = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Removes a cgroup and those below it, deepest first, as far as the kernel lets it.
fn remove(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove(&entry.path());
        }
    }
    let started = Instant::now();
    // A process leaves some time after it was killed; one that forks meanwhile is found on the next look.
    while fs::remove_dir(path).is_err() && path.exists() && started.elapsed() < LEAVE {
        for pid in processes(path) {
            // The test never kills itself; a zero would be a process of another pid namespace.
            if pid != process::id() && pid != 0 {
                i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL)).ok();
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::require_kernel;

    #[test]
    fn goes_with_its_processes_and_children() {
        if !require_kernel() {
            return;
        }
        let parent = Cgroup::new("cgroup");
        let child = parent.child("pods/pod1");
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        child.add(sleeper.id());
        assert_eq!(child.processes(), [sleeper.id()]);
        assert_ne!(child.id(), parent.id());

        let path = parent.path().to_owned();
        drop(parent);
        assert!(!path.exists());
        assert!(!sleeper.wait().unwrap().success());
    }

    #[test]
    fn a_removed_child_leaves_its_parent() {
        if !require_kernel() {
            return;
        }
        let parent = Cgroup::new("parent");
        parent.child("pod").remove();
        assert!(!parent.path().join("pod").exists());
        assert!(parent.path().exists());
    }
}
