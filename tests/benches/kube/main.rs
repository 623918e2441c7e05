//! `make bench-kube`: the agent on a real control plane. etcd and API server are real, nodes and pods are data, agents
//! are release binaries, clients are real sockets.
//!
//! Each part has a cluster of its own, in which two agents and a controller run. With names of parts as arguments only
//! these are measured, and no file is written. With `--quick` everything is smaller; those figures only tell that the
//! bench works.

#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends the run")]

use std::{env, process::ExitCode, time::Instant};

mod changes;
mod fabric;
mod fleet;
mod kubelets;
mod large;
mod latency;
#[path = "../report.rs"]
#[allow(dead_code, reason = "the other bench uses the rest of it")]
mod report;
mod scale;
mod starts;
mod watch;
mod world;

use report::{Report, median};
use world::World;

/// `true` = quick.
type Measure = fn(&mut Report, &mut World, bool);
const PARTS: [(&str, Measure); 5] = [
    ("latency", latency::measure),
    ("scale", scale::measure),
    ("watch", watch::measure),
    ("large", large::measure),
    ("fabric", fabric::measure),
];

fn main() -> ExitCode {
    if !balancing_tests::require_kernel() {
        return ExitCode::FAILURE;
    }
    report::introduce();
    let quick = env::args().any(|argument| argument == "--quick");
    let only: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut report = Report::default();
    for (name, measure) in PARTS {
        if only.is_empty() || only.iter().any(|part| part == name) {
            let start = Instant::now();
            measure(&mut report, &mut World::start(), quick);
            eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    if only.is_empty() {
        report.write("kube.json");
    }
    ExitCode::SUCCESS
}
