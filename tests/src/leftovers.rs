//! Names of what tests create outside their process, and the sweep of what killed tests left.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Starts every name, so that the sweep touches nothing but the harness's own things.
const PREFIX: &str = "balancing-test";

/// A name no other test has: prefix, process id, running number, topic.
pub(crate) fn unique_name(topic: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}-{}-{number}-{topic}", process::id())
}

/// Entries of a directory that carry the id of a process that no longer runs.
pub(crate) fn orphans(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(owner).is_some_and(|pid| !runs(pid)))
        .map(|entry| entry.path())
        .collect()
}

fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?.strip_prefix('-')?;
    rest.split('-').next()?.parse().ok()
}

fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_orphans() {
        let directory = crate::TempDir::new("leftovers");
        let alive = unique_name("alive");
        // Above the largest process id a kernel gives out.
        let dead = format!("{PREFIX}-4194305-0-dead");
        for name in [alive.as_str(), dead.as_str(), "balancing-test-x", "other-4194305"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(orphans(directory.path()), [directory.path().join(dead)]);
    }
}
