//! Whether this machine can run tests that need a kernel.

use std::{env, path::Path, thread};

use balancing_dataplane::mount::Mounts;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// Whether tests may make cgroups, namespaces and BPF programs. Prints the reason when they may not;
/// the test then returns early.
///
/// # Panics
/// Instead of returning false when `BALANCING_REQUIRE_KERNEL=1`: continuous integration must not pass
/// because nothing ran.
#[must_use]
pub fn require_kernel() -> bool {
    let Some(reason) = missing() else { return true };
    assert!(
        env::var_os("BALANCING_REQUIRE_KERNEL").is_none_or(|value| value != "1"),
        "this test needs the kernel, and BALANCING_REQUIRE_KERNEL=1 is set: {reason}"
    );
    eprintln!("skipped: {reason}");
    false
}

fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some("not root; `make test` runs tests as root".into());
    }
    if let Err(error) = Mounts::read().and_then(|mounts| mounts.cgroup2_root()) {
        return Some(error.to_string());
    }
    // In a thread of its own, which ends together with the namespace.
    let namespaces = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    if !matches!(namespaces, Ok(Ok(()))) {
        return Some("network namespaces cannot be created".into());
    }
    if !Path::new("/sys/fs/bpf").is_dir() {
        return Some("the kernel has no /sys/fs/bpf".into());
    }
    None
}
