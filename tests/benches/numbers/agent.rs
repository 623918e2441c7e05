//! The agent as a process: cold start from a directory, changes, scrapes, idle cost.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use balancing_tests::{Object, program};
use serde_json::json;

use crate::{Report, plane::Kernel};

mod calls;
mod cold;
mod endpoints;
mod idle;
mod scrape;

const PATIENCE: Duration = Duration::from_secs(60);
/// Slots for backends where the default is too few.
const MAX_BACKENDS: [&str; 2] = ["--max-backends", "262144"];

pub(crate) fn measure(report: &mut Report) {
    cold::measure(report);
    idle::measure(report);
    scrape::measure(report);
    endpoints::measure(report);
}

/// An agent of its own. Killed on drop.
struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().expect("the agent is ours");
        self.child.wait().expect("the agent is ours");
    }
}

impl Running {
    /// With room for what the bench makes.
    fn start(source: &Path, bpffs: &Path, run_dir: &Path, cgroup: &Path) -> Self {
        Self::start_with(&MAX_BACKENDS, source, bpffs, run_dir, cgroup)
    }

    fn start_with(flags: &[&str], source: &Path, bpffs: &Path, run_dir: &Path, cgroup: &Path) -> Self {
        let child = Command::new(program("balancing-agent"))
            .args(flags)
            .args(["--log-level", "warn", "--node-name", "bench", "--source"])
            .arg(format!("dir:{}", source.display()))
            .arg("--bpffs")
            .arg(bpffs)
            .arg("--run-dir")
            .arg(run_dir)
            .arg("--cgroup-root")
            .arg(cgroup)
            .args(["--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the agent starts");
        Self { child }
    }

    /// A field of /proc/PID/status in MB.
    fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        let kb: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("kB");
        kb * 1024.0 / 1e6
    }

    /// CPU time of all its threads so far in seconds.
    fn cpu(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("threads");
        let ns = tasks.map(|task| {
            let path = task.expect("a thread").path().join("schedstat");
            let stat = fs::read_to_string(path).expect("schedstat");
            stat.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).expect("nanoseconds")
        });
        ns.sum::<f64>() / 1e9
    }
}

/// A policy with one frontend and custom backends.
fn policy(number: u32, backends: impl IntoIterator<Item = u32>) -> Object {
    let backends: Vec<String> = backends.into_iter().map(|at| Ipv4Addr::from_bits(at).to_string()).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    Object::balancing_to(&format!("p{number}"), &frontend(number).ip().to_string(), 80, &backends)
        .with("/spec/backend/addressEndpoint/toPorts", json!([{"port": 8080}]))
}

/// Where the frontend of a policy is.
fn frontend(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a40_0000 + number)), 80)
}

/// Polls as fast as it can.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Instant {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "gave up waiting for {what}");
    }
    Instant::now()
}

/// Milliseconds from a file that is about to be renamed until the kernel sends a frontend to these backends and no
/// others.
fn time_change(kernel: &Kernel, frontend: SocketAddr, backends: &[u32], rename: impl FnOnce()) -> f64 {
    let wanted = backends.iter().map(|at| IpAddr::V4(Ipv4Addr::from_bits(*at))).collect();
    let start = Instant::now();
    rename();
    let done = wait_until("a change", || kernel.backends(frontend) == wanted);
    milliseconds(done - start)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The largest.
fn longest(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::NAN, f64::max)
}
