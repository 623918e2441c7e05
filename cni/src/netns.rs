//! Cookie of the pod's network namespace: what BPF programs recognise the pod by.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};

use balancing_dataplane::sys;
use nix::sched::{CloneFlags, setns};

/// A path that turns out to be a pipe must not block the call.
const NONBLOCK: i32 = nix::fcntl::OFlag::O_NONBLOCK.bits();

/// Cookie of the namespace at `path`. `None` when it is the plugin's own: that is the host, not a pod.
///
/// A thread enters the namespace and ends there, so the caller stays where it is.
pub(crate) fn cookie(path: &Path) -> io::Result<Option<u64>> {
    let own = sys::netns_cookie()?;
    let namespace = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    let enter = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        sys::netns_cookie()
    };
    let thread = std::thread::Builder::new().spawn(enter)?;
    let cookie = thread.join().map_err(|_panic| io::Error::other("the thread that entered it failed"))??;
    Ok((cookie != own).then_some(cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_an_error() {
        assert!(cookie(Path::new("dummy")).is_err());
        assert!(cookie(Path::new("/proc/self/status")).is_err());
    }
}
