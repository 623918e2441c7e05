//! `make bench-kube`: the agent on a real control plane. etcd and API server are real, nodes and pods are data, agents
//! are release binaries, clients are real sockets.
//!
//! Two agents and a controller run. The cluster is made once and grows. With
//! `--quick` everything is smaller; those figures only tell that the bench works.

#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends the run")]

use std::process::ExitCode;

mod changes;
mod fleet;
mod latency;
#[path = "../report.rs"]
mod report;
mod scale;
mod usage;
mod world;

use report::{Report, median};
use scale::Plan;
use world::World;

fn main() -> ExitCode {
    if !balancing_tests::require_kernel() {
        return ExitCode::FAILURE;
    }
    report::introduce();
    let quick = std::env::args().any(|argument| argument == "--quick");
    let plan = if quick { Plan::QUICK } else { Plan::FULL };
    let mut report = Report::default();
    let mut world = World::start();
    latency::measure(&mut report, &world, if quick { 5 } else { 25 });
    scale::measure(&mut report, &mut world, &plan);
    report.write("kube.json");
    ExitCode::SUCCESS
}
