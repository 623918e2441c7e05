//! Links to programs: at the cgroup root for host processes, at the cgroups of pods.

use std::fmt;

use super::Out;

/// The links at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSample {
    /// Host processes are hooked.
    pub host: bool,
    /// Pods that are hooked.
    pub pods: usize,
    /// Pods whose links are not as they should be.
    pub pods_failed: usize,
    /// Attempts that failed.
    pub failures: AttachFailures,
}

/// Attempts to make or mend links that failed since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachFailures {
    /// Those that concern the whole host.
    pub host: u64,
    /// Those that concern one pod.
    pub pods: u64,
}

impl LinkSample {
    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        out.value("host_attached", "Whether host processes are hooked", u64::from(self.host))?;
        out.value("pods_attached", "Pods that are hooked", self.pods)?;
        out.value("pods_failed", "Pods whose links are not as they should be", self.pods_failed)?;
        let failures = [("host", self.failures.host), ("pod", self.failures.pods)];
        let failures = failures.map(|(scope, count)| ([("scope", scope)], count));
        out.counts("attach_failures", "Attempts to make or mend links that failed", failures)
    }
}
