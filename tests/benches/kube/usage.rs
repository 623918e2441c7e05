//! What a process takes of the machine.

use std::{fs, time::Duration};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// CPU time of all threads so far, those that have ended included (`clock_getcpuclockid(3)`).
pub(crate) fn cpu(pid: u32) -> Duration {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    let clock = clock_getcpuclockid(pid).expect("the process runs");
    clock_gettime(clock).expect("the process runs").into()
}

/// A size of `/proc/PID/status`, such as `VmRSS`, in MB.
pub(crate) fn memory(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).expect("the field");
    kib * 1024.0 / 1e6
}
