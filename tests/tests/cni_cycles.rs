//! Thousands of pods, and many at once: nothing grows.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use balancing_dataplane::links;
use balancing_tests::{Cgroup, Node, Object, Pinned, Plugin, eventually_within, memory, require_kernel};

/// Pods of a usual run; `BALANCING_CYCLES` sets another number.
const CYCLES: usize = 2000;
/// Pods whose runtime never calls DEL are one in so many: it has crashed, or the pod went with it.
const FORGOTTEN: usize = 20;
/// Pods that run at the same time.
const BESIDE: usize = 4;
const PARALLEL: usize = 200;
/// The agent sweeps after a grace period.
const SWEEP: Duration = Duration::from_secs(120);
/// How much the agent may grow in MB, whatever the number of pods.
const GROWTH: f64 = 8.0;

/// What a node has of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Left {
    pins: Vec<String>,
    files: Vec<PathBuf>,
}

fn left(node: &Node) -> Left {
    let layouts = links::layouts(node.bpffs()).unwrap();
    let pins = layouts.iter().flat_map(|layout| names(&layout.pods())).collect();
    let mut files = Vec::new();
    collect(node.run_dir(), &mut files);
    Left { pins, files }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Files and directories below one, but for the old log, which comes once the log is full.
fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for name in names(directory) {
        let path = directory.join(&name);
        if path.is_dir() {
            collect(&path, found);
        }
        if !name.ends_with(".log.1") {
            found.push(path);
        }
    }
    found.sort();
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A pod's life: its cgroup, ADD, DEL unless it is forgotten, and the end of the cgroup.
fn live(root: &Cgroup, plugin: &Plugin, number: usize) -> [Duration; 2] {
    let pod = Object::pod(&format!("pod{number}"), "app", &["10.1.0.5"]);
    let container = format!("c{number}");
    let cgroup = root.child(&format!("kubepods/burstable/pod{}", pod.node_uid()));
    let timed = |command: &str| {
        let begin = Instant::now();
        let output = plugin.call(command, &pod, &container, None);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
        begin.elapsed()
    };
    let add = timed("ADD");
    let del = if number.is_multiple_of(FORGOTTEN) { Duration::ZERO } else { timed("DEL") };
    cgroup.remove();
    [add, del]
}

#[test]
fn h19_f29_thousands_of_pods_leave_nothing() {
    if !require_kernel() {
        return;
    }
    let number = std::env::var("BALANCING_CYCLES").map_or(CYCLES, |number| number.parse().unwrap());
    let mut node = Node::new("cycles");
    node.start();
    let plugin = Plugin::of(&node).with("failurePolicy", "fail");
    // The first pods make directories and files that stay.
    for pod in 1..FORGOTTEN {
        live(node.cgroup(), &plugin, pod);
    }
    let agent = node.agent().pid();
    let (before, open, resident) = (settled(&node), descriptors(agent), memory(agent, "VmRSS"));
    let (node, root) = (&node, node.cgroup());
    let plugin = &plugin;
    let mut times: Vec<[Duration; 2]> = thread::scope(|scope| {
        let lives = move |beside: usize| {
            (FORGOTTEN..FORGOTTEN + number)
                .filter(move |pod| pod % BESIDE == beside)
                .map(move |pod| live(root, plugin, pod))
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..BESIDE).map(|beside| scope.spawn(move || lives(beside))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    eventually_within(SWEEP, || {
        let now = left(node);
        if now == before { Ok(()) } else { Err(format!("{now:#?}, before: {before:#?}")) }
    });
    let grown = memory(agent, "VmRSS") - resident;
    assert!(grown < GROWTH, "the agent grew by {grown} MB");
    eventually_within(SWEEP, || {
        let now = descriptors(agent);
        if now <= open { Ok(()) } else { Err(format!("{now} descriptors, {open} before")) }
    });
    let (adds, dels) = (percentiles(&mut times, 0), percentiles(&mut times, 1));
    eprintln!(
        "{number} pods, {BESIDE} at a time: ADD {adds}, DEL {dels}; the agent has grown by {grown:.1} MB"
    );
}

/// What is there once nothing of pods is.
fn settled(node: &Node) -> Left {
    eventually_within(SWEEP, || {
        let left = left(node);
        let is_record = |path: &&PathBuf| {
            path.extension().is_some_and(|end| end == "json") && path.starts_with(node.run_dir().join("cni"))
        };
        if left.files.iter().find(is_record).is_none() { Ok(left) } else { Err(format!("{left:#?}")) }
    })
}

fn percentiles(times: &mut [[Duration; 2]], which: usize) -> String {
    let mut sorted: Vec<Duration> =
        times.iter().map(|pair| pair[which]).filter(|time| !time.is_zero()).collect();
    sorted.sort();
    let at = |share: usize| sorted[(sorted.len() - 1) * share / 100].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms", at(50), at(99))
}

#[test]
fn e6_two_hundred_pods_at_once() {
    if !require_kernel() {
        return;
    }
    let host = Pinned::new("parallel");
    let uids: Vec<String> = (0..PARALLEL).map(|number| format!("{number:032x}")).collect();
    let cgroups: Vec<Cgroup> = uids.iter().map(|uid| host.pod(uid)).collect();
    let together = |command: &str| {
        let barrier = Barrier::new(PARALLEL);
        let (host, barrier) = (&host, &barrier);
        let mut times: Vec<[Duration; 2]> = thread::scope(|scope| {
            let call = |uid: &str| {
                barrier.wait();
                let begin = Instant::now();
                host.succeed(command, uid);
                [begin.elapsed(), Duration::ZERO]
            };
            let threads: Vec<_> = uids.iter().map(|uid| scope.spawn(move || call(uid))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        percentiles(&mut times, 0)
    };
    let adds = together("ADD");
    for (uid, cgroup) in uids.iter().zip(&cgroups) {
        assert!(host.is_attached(uid, cgroup), "{uid}: {:?}", host.links(uid));
    }
    let dels = together("DEL");
    assert!(host.traces().is_empty(), "{:?}", host.traces());
    eprintln!("{PARALLEL} at once: ADD {adds}, DEL {dels}");
}
