//! `make bench`: the numbers of docs/performance.md, measured on this machine.
//!
//! Every figure is a ratio against a base of the same run, or a time of a real process. It takes about nine minutes.
//! With names of parts as arguments only these are measured, and no file is written.

#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends the run")]

use std::{env, process::ExitCode, time::Instant};

mod agent;
mod cni;
mod hooks;
mod memory;
mod plane;
mod proxy;
#[path = "../report.rs"]
mod report;
mod rest;
mod statistics;
mod tunnel;

use report::{Report, median};

type Measure = fn(&mut Report);
const PARTS: [(&str, Measure); 6] = [
    ("hooks", hooks::measure),
    ("memory", memory::measure),
    ("agent", agent::measure),
    ("cni", cni::measure),
    ("tunnel", tunnel::measure),
    ("proxy", proxy::measure),
];

fn main() -> ExitCode {
    if !balancing_tests::require_kernel() {
        return ExitCode::FAILURE;
    }
    report::introduce();
    let only: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut report = Report::default();
    for (name, measure) in PARTS {
        if only.is_empty() || only.iter().any(|part| part == name) {
            let start = Instant::now();
            measure(&mut report);
            eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    if only.is_empty() {
        report.write("results.json");
    }
    ExitCode::SUCCESS
}
