//! `make bench`: the numbers of docs/performance.md, measured on this machine.
//!
//! Every figure is a ratio against a base of the same run, or a time of a real process. Rounds are interleaved, so that a
//! machine whose speed drifts drifts for all of them; medians are reported.

#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends the run")]

use std::process::ExitCode;

mod agent;
mod cni;
mod connect;
mod memory;
#[path = "../report.rs"]
mod report;

use report::{Report, median};

fn main() -> ExitCode {
    if !balancing_tests::require_kernel() {
        return ExitCode::FAILURE;
    }
    report::introduce();
    let mut report = Report::default();
    connect::measure(&mut report);
    memory::measure(&mut report);
    agent::measure(&mut report);
    cni::measure(&mut report);
    report.write("results.json");
    ExitCode::SUCCESS
}
