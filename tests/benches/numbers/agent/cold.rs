//! 10,000 frontends with 10 backends each: cold start, memory, and one change among them.

use std::{fs, ops::Range, time::Instant};

use balancing_tests::{Bpffs, Cgroup, Object, TempDir};

use super::{Running, frontend, policy, time_change, wait_until};
use crate::{
    Report, median,
    plane::{Kernel, host_links},
};

const POLICIES: u32 = 10_000;
const BACKENDS: u32 = 10;
/// Starts; each has tables of its own.
const STARTS: usize = 3;
const CHANGES: u32 = 31;

pub(super) fn measure(report: &mut Report) {
    let (cgroup, dir) = (Cgroup::new("bench-agent"), TempDir::new("bench"));
    let source = dir.path().join("objects");
    let all = Object::list((0..POLICIES).map(|number| policy(number, backends(number, 0))));
    dir.write("objects/all.json", all.json());
    dir.write("objects/one.json", policy(POLICIES, backends(POLICIES, 0)).json());
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    for start in 0..STARTS {
        let (bpffs, run_dir) = (Bpffs::new("bench-large"), dir.path().join(format!("run-{start}")));
        let began = Instant::now();
        let agent = Running::start(&source, bpffs.path(), &run_dir, cgroup.path());
        // Links at the root are made when everything is programmed.
        let done = wait_until("a cold start", || host_links(bpffs.path()));
        times.push((done - began).as_secs_f64());
        peaks.push(agent.memory("VmHWM"));
        let kernel = Kernel::open(bpffs.path());
        assert_eq!(kernel.layers(), POLICIES as usize + 1, "everything is programmed");
        if start + 1 == STARTS {
            let name = "10,000 frontends x 10 backends, directory to kernel, cold (median of 3)";
            report.at_most(name, median(&mut times), "s", 0.3);
            report.at_most("memory of the agent after it (peak)", median(&mut peaks), "MB", 150.0);
            one_change(report, &dir, &kernel);
        }
    }
    drop(fs::remove_dir_all(source));
}

/// One policy of its own file changes; seen through the kernel's table.
fn one_change(report: &mut Report, dir: &TempDir, kernel: &Kernel) {
    let times = (1..=CHANGES).map(|round| {
        let backends: Vec<u32> = backends(POLICIES, round % 4 + 1).collect();
        let text = policy(POLICIES, backends.iter().copied()).json();
        time_change(kernel, frontend(POLICIES), &backends, || {
            dir.write("objects/one.json", text);
        })
    });
    let name = "one policy changes among those, file to kernel (median of 31)";
    report.at_most(name, median(&mut times.collect::<Vec<_>>()), "ms", 10.0);
}

/// Addresses of a policy's backends, others for another `shift`.
fn backends(number: u32, shift: u32) -> Range<u32> {
    let first = 0x0b00_0000 + number * 16 + shift;
    first..first + BACKENDS
}
