//! What a process takes of the machine.

use std::{fs, time::Duration};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use crate::must::Must;

/// What a minute of waiting may cost a release build of the agent: 0.1 % of a core, as promised. One that looks for
/// its API server once a second uses half of it.
const WAITING: Duration = Duration::from_millis(60);
/// How much more a build for tests may take, whose client of the API server is not optimised.
const UNOPTIMISED: u32 = 3;

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

/// What an agent that waits for something may use in that time, by the build that runs.
#[must_use]
pub fn cpu_of_waiting(time: Duration) -> Duration {
    let factor = if std::env::var_os("BALANCING_BIN").is_some() { 1 } else { UNOPTIMISED };
    (factor * WAITING).mul_f64(time.as_secs_f64() / 60.0)
}
