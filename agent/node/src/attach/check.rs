//! Asks the kernel whether what was hooked still is: somebody may detach a link and leave its pin, which no file event tells.

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    time::Duration,
};

use balancing_dataplane::{
    cgroup::CgroupDir,
    layout::{Hook, Layout},
    links,
};
use nix::time::{ClockId, clock_gettime};

use super::{Attacher, known::Known};

/// How often is asked.
pub const CHECK: Duration = Duration::from_millis(900);
/// What one round may take of a CPU; with so many pods that they take more, the next round goes on with the others.
const BUDGET: Duration = Duration::from_millis(1);

/// What is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// A link at the cgroup root.
    pub host: bool,
    /// A link of a pod.
    pub pods: bool,
}

impl Attacher {
    /// Asks about the host, and about as many pods as there is time for. A pod with a link that is gone is looked at next.
    pub fn check(&mut self) -> Missing {
        let began = cpu_time();
        let mut missing = Missing { host: self.host_attached && !self.is_host_attached(), pods: false };
        let last = self.checked.take();
        let after = match &last {
            Some(uid) => Bound::Excluded(uid.clone()),
            None => Bound::Unbounded,
        };
        for (uid, known) in self.known.range((after, Bound::Unbounded)) {
            if known.is_hooked() && !known.is_attached(&self.cgroup_root, &self.pods) {
                missing.pods = true;
                self.watch.touch(known.uid());
            }
            if cpu_time().saturating_sub(began) > BUDGET {
                self.checked = Some(uid.clone());
                break;
            }
        }
        missing
    }

    fn is_host_attached(&self) -> bool {
        // What cannot be asked is no reason to doubt.
        let Ok(root) = CgroupDir::open(&self.cgroup_root) else { return true };
        links::are_attached(&self.host, &root).unwrap_or(true)
    }

    /// Whether processes of the host are hooked, by an earlier agent's links where they are still in force.
    #[must_use]
    pub fn is_host_hooked(&self) -> bool {
        let Ok(root) = CgroupDir::open(&self.cgroup_root) else { return self.host_attached };
        self.running(&root, |layout| layout.host()) == Hook::ALL.len()
    }

    /// How many hooks run for a local pod, those of an earlier agent included; `None`: it is not known, or cannot be asked.
    #[must_use]
    pub fn hooks_of(&self, uid: &str) -> Option<usize> {
        let known = self.known.get(uid)?;
        let cgroup = CgroupDir::open(known.cgroup()?).ok()?;
        Some(self.running(&cgroup, |layout| layout.pods().join(known.uid().as_str())))
    }

    /// How many hooks run at a cgroup because of the links in a directory of any ABI.
    fn running(&self, cgroup: &CgroupDir, dir: impl Fn(&Layout) -> PathBuf) -> usize {
        let layouts = links::layouts(self.layout.bpffs()).unwrap_or_default();
        links::running(cgroup, &links::programs_in(layouts.iter().map(dir)))
    }
}

impl Known {
    /// Whether the programs run for it. What cannot be asked is no reason to doubt.
    fn is_attached(&self, root: &Path, programs: &links::Programs) -> bool {
        match self.open_cgroup(root) {
            Some(cgroup) => links::are_attached(programs, &cgroup).unwrap_or(true),
            None => true,
        }
    }
}

/// What the thread has taken of a CPU.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
