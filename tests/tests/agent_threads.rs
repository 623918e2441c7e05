//! The agent's threads: what waiting costs, and that a slow kernel holds up nothing but the thread that works on it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use balancing_tests::*;
use nix::{
    libc,
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// Longer than any period of the agent.
const WATCH: Duration = Duration::from_secs(40);

fn tasks(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

/// An agent that has been waiting for its source for a while; dropped in this order.
struct Waiting {
    cause: &'static str,
    agent: Agent,
    _host: NetNs,
    _cgroup: Cgroup,
    _bpffs: Bpffs,
    _run: TempDir,
}

impl Waiting {
    fn new(cause: &'static str, source: &[&str]) -> Self {
        let (host, cgroup, bpffs) = (NetNs::new(), Cgroup::new("waiting"), Bpffs::new("waiting"));
        let run = TempDir::new("run");
        let mut agent = Agent::new(&Place::default().in_netns(&host))
            .args(source.iter().copied())
            .args(["--node-name", "n1"])
            .args(["--cgroup-root".as_ref(), cgroup.path().as_os_str()])
            .args(["--bpffs".as_ref(), bpffs.path().as_os_str()])
            .args(["--run-dir".as_ref(), run.path().as_os_str()]);
        let socket = run.path().join("agent.sock");
        agent.start(|| socket.exists());
        Self { cause, agent, _host: host, _cgroup: cgroup, _bpffs: bpffs, _run: run }
    }
}

#[test]
fn waiting_for_a_source_costs_nothing() {
    if !require_kernel() {
        return;
    }
    let files = TempDir::new("kubeconfig");
    files.write(
        "away",
        "{current-context: a, clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], \
         users: [{name: a, user: {token: t}}], contexts: [{name: a, context: {cluster: a, user: a}}]}",
    );
    let away = files.path().join("away");
    let nowhere = format!("dir:{}", files.path().join("nowhere").display());
    let agents = [
        Waiting::new("a directory that is missing", &["--source", &nowhere]),
        Waiting::new(
            "an API server that is away",
            &["--namespace", "balancing", "--source", "kube", "--kubeconfig", away.to_str().unwrap()],
        ),
    ];
    // Until programs are loaded and the waits of the source have grown.
    thread::sleep(Duration::from_secs(10));
    let agents: Vec<_> = agents.iter().map(|waiting| (waiting.cause, waiting.agent.pid())).collect();
    assert_waiting_costs_nothing(&agents, WATCH, 1);
}

#[test]
fn a_kernel_that_is_slow_holds_up_no_probe_and_no_command_for_ever() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("stall");
    let _local = node.serve("local", &["10.1.0.1:80"]);
    node.apply(&Object::pod("local", "local", &["10.1.0.1"]));
    node.apply(&Object::local_redirect("policy", "10.96.0.1", 80, "local"));
    node.start();
    let http = node.view().unwrap().http.unwrap();
    let named = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap().trim() == "dataplane";
    let task = tasks(node.agent().pid()).into_iter().find(named).expect("a thread of that name");
    let thread = Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap());

    // As if a system call did not come back: the other threads go on.
    let stopped = Stopped::new(thread);
    node.apply(&Object::local_redirect("later", "10.96.0.2", 80, "local"));
    let stalled = Instant::now();
    let mut probes = 0;
    while stalled.elapsed() < Duration::from_secs(2) {
        for path in ["/healthz", "/readyz"] {
            let asked = Instant::now();
            assert_eq!(probe(&node, http, path), 200, "{path}");
            assert!(asked.elapsed() < Duration::from_secs(1), "{path} took {:?}", asked.elapsed());
            probes += 1;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(probes > 10, "{probes} probes in 2 s");
    drop(stopped);

    node.wait_backends("later", 1);
    assert_eq!(node.client().ask_tcp(address("10.96.0.2:80")).as_deref(), Ok("local"));
}

/// System calls in which no thread ever stands still.
const PASSING: [i64; 7] = [
    libc::SYS_write,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
];

/// A thread that stands still until this is dropped: of one that is still held, the end would never be told.
struct Stopped(Pid);

impl Stopped {
    /// In the middle of a system call, as a slow kernel would: elsewhere it may hold a lock of the allocator, or of what it reports.
    /// Nor where the allocator calls, or where it wakes another thread, which nobody else wakes meanwhile: those calls do not block.
    fn new(thread: Pid) -> Self {
        eventually(|| {
            ptrace::seize(thread, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(thread).unwrap();
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            let stopped = Self(thread);
            let call = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap();
            // The number is -1 outside of one.
            let number: i64 = call.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(-1);
            if number >= 0 && !PASSING.contains(&number) { Ok(stopped) } else { Err(call) }
        })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

fn probe(node: &Node, http: SocketAddr, path: &str) -> u16 {
    node.host().run(|| http_get(http, path)).map_or(0, |(status, _)| status)
}
