//! An agent that has nothing to do, with tables of the default sizes.

use std::{thread::sleep, time::Duration};

use balancing_tests::{Bpffs, Cgroup, TempDir};

use super::{Running, policy, wait_until};
use crate::{Report, plane::host_links};

/// Until the start is over.
const SETTLE: Duration = Duration::from_secs(2);
/// More than the longest period of anything in the agent.
const WATCH: Duration = Duration::from_secs(65);

pub(super) fn measure(report: &mut Report) {
    let (cgroup, dir, bpffs) = (Cgroup::new("bench-idle"), TempDir::new("bench"), Bpffs::new("bench-small"));
    dir.write("objects/one.json", policy(1, [0x0b00_0001]).json());
    let (source, run_dir) = (dir.path().join("objects"), dir.path().join("run"));
    let agent = Running::start_with(&[], &source, bpffs.path(), &run_dir, cgroup.path());
    wait_until("the idle agent", || host_links(bpffs.path()));
    sleep(SETTLE);
    let before = agent.cpu();
    sleep(WATCH);
    let share = (agent.cpu() - before) / WATCH.as_secs_f64();
    report.at_most("idle agent: CPU over 65 s", share * 100.0, "%", 0.1);
    report.at_most("idle agent: memory", agent.memory("VmRSS"), "MB", 25.0);
}
