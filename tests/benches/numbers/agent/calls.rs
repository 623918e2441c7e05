//! How many bpf(2) calls a process makes, counted by strace.

use std::{
    fs,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use balancing_tests::TempDir;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// strace attaches to all threads within this time, or cannot.
const ATTACH: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// The calls that a process makes during an action; `None` where strace cannot tell.
pub(super) fn count_bpf(pid: u32, action: impl FnOnce()) -> Option<f64> {
    let output = TempDir::new("strace");
    let summary = output.path().join("summary");
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-c", "-e", "trace=bpf", "-p", &pid.to_string(), "-o"])
        .arg(&summary)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    let traced = loop {
        if is_traced(pid) {
            break true;
        }
        if start.elapsed() > ATTACH || !matches!(strace.try_wait(), Ok(None)) {
            break false;
        }
        sleep(PAUSE);
    };
    if traced {
        action();
    }
    let id = i32::try_from(strace.id()).expect("a process id");
    // It may have ended by itself; its summary tells.
    kill(Pid::from_raw(id), Signal::SIGINT).ok();
    strace.wait().expect("strace is ours");
    if !traced {
        return None;
    }
    Some(calls(&fs::read_to_string(summary).ok()?))
}

/// Whether every thread of a process has a tracer.
fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}

/// The column `calls` of `strace -c`: share, seconds, microseconds a call, calls, perhaps errors, name.
fn calls(summary: &str) -> f64 {
    let fields = summary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let bpf = fields.filter(|fields| fields.last() == Some(&"bpf"));
    // An empty sum is a negative zero.
    bpf.filter_map(|fields| fields.get(3)?.parse::<f64>().ok()).sum::<f64>() + 0.0
}
