//! What a process takes of the machine.

use std::{
    collections::HashMap,
    fs::{self, DirEntry},
    io, thread,
    time::{Duration, Instant},
};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use crate::must::Must;

/// What a minute of waiting may cost a release build of the agent: 0.1 % of a core, as promised. One that looks for
/// its API server once a second uses half of it.
const WAITING: Duration = Duration::from_millis(60);
/// How much more a build for tests may take. Its client of the API server is not optimised, which costs three times as
/// much; and a virtual machine whose host is busy is charged for what the host took from it, three times that again.
const UNOPTIMISED: u32 = 10;
/// How often the threads of an agent that waits may wake up in a second, whatever the speed of the machine: they do 2 to 4 times,
/// up to 7 in a fabric.
const WAKEUPS: u32 = 10;

/// What can be told from a watch.
const SHORTEST: Duration = Duration::from_secs(5);

/// CPU time of all threads so far, those that have ended included (`clock_getcpuclockid(3)`).
#[must_use]
pub fn cpu(pid: u32) -> Duration {
    let pid = Pid::from_raw(i32::try_from(pid).must("read the id of a process"));
    let clock = clock_getcpuclockid(pid).must("find the clock of a process");
    clock_gettime(clock).must("read the clock of a process").into()
}

/// A size of `/proc/PID/status`, such as `VmRSS`, in MB.
#[must_use]
pub fn memory(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).must("read the status of a process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib =
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).must("find the size");
    kib * 1024.0 / 1e6
}

/// Watches agents that have nothing to do but to wait for something.
///
/// # Panics
/// Where one takes more of the CPU, or wakes up more often, than waiting may, times `share`; where one has ended; where `time` is too
/// short to tell.
#[allow(clippy::print_stdout, reason = "figures of a verdict")]
pub fn assert_waiting_costs_nothing(agents: &[(&str, u32)], time: Duration, share: u32) {
    assert!(time >= SHORTEST, "{time:?} of waiting tell nothing");
    let begin = Instant::now();
    let before: Vec<_> = agents.iter().map(|(_, pid)| (cpu(*pid), wakeups(*pid))).collect();
    thread::sleep(time);
    for ((name, pid), (cpu_before, wakeups_before)) in agents.iter().zip(before) {
        let (cpu, time) = (cpu(*pid) - cpu_before, begin.elapsed());
        let known = |thread: &str| wakeups_before.get(thread).copied().unwrap_or(0);
        let wakeups: u64 =
            wakeups(*pid).iter().map(|(thread, count)| count.saturating_sub(known(thread))).sum();
        println!("{name}: {cpu:?} of CPU and {wakeups} wake-ups in {time:?}");
        let bound = share * cpu_of_waiting(time);
        assert!(cpu <= bound, "{name}: {cpu:?} of CPU in {time:?}, not {bound:?}");
        let bound = u64::from(share * WAKEUPS) * time.as_secs();
        assert!(wakeups <= bound, "{name}: {wakeups} wake-ups in {time:?}, not {bound}");
        assert!(wakeups > 0, "{name}: it has ended, or hangs");
    }
}

/// How often each thread that lives gave up the CPU to wait: `voluntary_ctxt_switches` of proc_pid_status(5).
fn wakeups(pid: u32) -> HashMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).must("list the threads of a process");
    let of = |entry: io::Result<DirEntry>| {
        let thread = entry.ok()?.path();
        // One that ends meanwhile has none.
        let status = fs::read_to_string(thread.join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((thread.file_name()?.to_str()?.to_owned(), count.trim().parse().ok()?))
    };
    threads.filter_map(of).collect()
}

/// What an agent that waits for something may use in that time, by the build that runs.
fn cpu_of_waiting(time: Duration) -> Duration {
    let factor = if std::env::var_os("BALANCING_BIN").is_some() { 1 } else { UNOPTIMISED };
    (factor * WAITING).mul_f64(time.as_secs_f64() / 60.0)
}
