//! The agent as a process: cold start from a directory, one change, idle cost.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use balancing_dataplane::{layout::Layout, tables::Reader};
use balancing_tests::{Bpffs, Cgroup, TempDir, program};

use crate::{Report, median};

const POLICIES: u32 = 10_000;
const BACKENDS: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// A policy with one frontend and ten custom backends.
fn policy(i: u32, first: u32) -> String {
    let addresses: Vec<String> =
        (0..BACKENDS).map(|b| format!("\"{}\"", Ipv4Addr::from(0x0b00_0000 + i * 16 + first + b))).collect();
    format!(
        r#"{{"apiVersion":"balancing.elf.io/v1beta1","kind":"BalancingPolicy","metadata":{{"name":"p{i}"}},"spec":{{"frontend":{{"addressMatcher":{{"ip":"{}","toPorts":[{{"port":"80"}}]}}}},"backend":{{"addressEndpoint":{{"addresses":[{}],"toPorts":[{{"port":"8080"}}]}}}}}}}}"#,
        Ipv4Addr::from(0x0a40_0000 + i),
        addresses.join(",")
    )
}

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
    fn start(source: &Path, bpffs: &Path, run_dir: &Path, cgroup: &Path) -> Self {
        let child = Command::new(program("balancing-agent"))
            .args(["--max-backends", "262144", "--log-level", "warn", "--node-name", "bench", "--source"])
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

    /// CPU time so far in seconds.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id())).expect("schedstat");
        let main: f64 = stat.split_whitespace().next().and_then(|n| n.parse().ok()).expect("nanoseconds");
        main / 1e9
    }
}

/// Polls as fast as it can.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Instant {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "gave up waiting for {what}");
    }
    Instant::now()
}

fn host_links(layout: &Layout) -> bool {
    layout.host().join("connect6").exists()
}

/// Links at the root are made when everything is programmed.
fn cold_start(report: &mut Report, bpffs: &Path, dir: &TempDir, cgroup: &Path) {
    let run_dir = dir.path().join("run");
    let source = dir.path().join("objects");
    fs::create_dir_all(&source).expect("a directory");
    let mut list = String::from(r#"{"apiVersion":"v1","kind":"List","items":["#);
    for i in 0..POLICIES {
        write!(list, "{}{}", if i > 0 { "," } else { "" }, policy(i, 0)).expect("a string");
    }
    list.push_str("]}");
    fs::write(source.join("all.json"), list).expect("a file");
    fs::write(source.join("one.json"), policy(POLICIES, 0)).expect("a file");
    let layout = Layout::new(bpffs, balancing_dataplane::ABI);
    let start = Instant::now();
    let agent = Running::start(&source, bpffs, &run_dir, cgroup);
    let done = wait_until("a cold start", || host_links(&layout));
    report.at_most(
        "10,000 frontends x 10 backends, directory to kernel, cold",
        (done - start).as_secs_f64(),
        "s",
        1.0,
    );
    let reader = Reader::open(&layout).expect("the tables are there");
    assert_eq!(reader.layers().expect("the tables can be read").len(), POLICIES as usize + 1);
    report.at_most("memory of the agent after it (peak)", agent.memory("VmHWM"), "MB", 150.0);
    one_change(report, &source, &reader);
}

/// One policy of its own file changes; seen through the kernel's table.
fn one_change(report: &mut Report, source: &Path, reader: &Reader) {
    let key = crate::connect::key(std::net::SocketAddrV4::new(Ipv4Addr::from(0x0a40_0000 + POLICIES), 80));
    let key = balancing_dataplane::model::FrontendKey {
        protocol: balancing_dataplane::model::Protocol::Tcp,
        ..key
    };
    let mut times = Vec::new();
    for round in 1..=31 {
        let first = round % 4 + 1;
        let wanted: BTreeSet<IpAddr> = (0..BACKENDS)
            .map(|b| IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + POLICIES * 16 + first + b)))
            .collect();
        fs::write(source.join(".one.json"), policy(POLICIES, first)).expect("a file");
        let start = Instant::now();
        fs::rename(source.join(".one.json"), source.join("one.json")).expect("a file");
        let done = wait_until("a change", || {
            let layer = reader.layer(&key).expect("the table can be read");
            layer.is_some_and(|l| l.backends.iter().map(|b| b.address).collect::<BTreeSet<_>>() == wanted)
        });
        times.push((done - start).as_secs_f64() * 1e3);
    }
    report.at_most(
        "one policy changes among those, file to kernel (median of 31)",
        median(&mut times),
        "ms",
        10.0,
    );
}

fn idle(report: &mut Report, bpffs: &Path, dir: &TempDir, cgroup: &Path) {
    let source = dir.path().join("idle");
    fs::create_dir_all(&source).expect("a directory");
    fs::write(source.join("one.json"), policy(1, 0)).expect("a file");
    let layout = Layout::new(bpffs, balancing_dataplane::ABI);
    let agent = Running::start(&source, bpffs, &dir.path().join("idle-run"), cgroup);
    wait_until("the idle agent", || host_links(&layout));
    std::thread::sleep(Duration::from_secs(2));
    let (before, start) = (agent.cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(65));
    let share = (agent.cpu() - before) / start.elapsed().as_secs_f64();
    report.at_most("idle agent: CPU over 65 s", share * 100.0, "%", 0.1);
    report.at_most("idle agent: memory", agent.memory("VmRSS"), "MB", 25.0);
}

pub(crate) fn measure(report: &mut Report) {
    let cgroup = Cgroup::new("bench-agent");
    let dir = TempDir::new("bench");
    let (large, small) = (Bpffs::new("bench-large"), Bpffs::new("bench-small"));
    cold_start(report, large.path(), &dir, cgroup.path());
    idle(report, small.path(), &dir, cgroup.path());
}
