//! `make bench`: the numbers of docs/performance.md, measured on this machine.
//!
//! Every figure is a ratio against a base of the same run, or a time of a real process. Rounds are interleaved, so that a
//! machine whose speed drifts drifts for all of them; medians are reported.

#![allow(clippy::expect_used, reason = "a measurement that cannot be made ends the run")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

mod agent;
mod cni;
mod connect;
mod memory;

/// One row of `target/bench/results.json`.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// The bound, when design gives one.
    target: Option<f64>,
    pass: bool,
}

/// Collects rows and prints them as they come.
#[derive(Default)]
struct Report(Vec<Row>);

impl Report {
    /// A value that must not exceed a bound.
    fn at_most(&mut self, name: &str, value: f64, unit: &'static str, target: f64) {
        self.push(Row { name: name.to_owned(), value, unit, target: Some(target), pass: value <= target });
    }

    /// A value that is only told.
    fn tell(&mut self, name: &str, value: f64, unit: &'static str) {
        self.push(Row { name: name.to_owned(), value, unit, target: None, pass: true });
    }

    fn push(&mut self, row: Row) {
        let target = row.target.map(|t| format!("(target <= {t})")).unwrap_or_default();
        let verdict = match (row.target, row.pass) {
            (None, _) => "",
            (_, true) => "ok",
            (_, false) => "MISSED",
        };
        eprintln!("{:62} {:>10.2} {:8} {target:18} {verdict}", row.name, row.value, row.unit);
        self.0.push(row);
    }
}

/// The median.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A release binary.
fn binary(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release").join(name);
    target.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; run `make build`", target.display()))
}

fn main() -> ExitCode {
    if !balancing_tests::require_kernel() {
        return ExitCode::FAILURE;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    eprintln!("kernel {}, {cpus} CPUs", release.trim());
    let mut report = Report::default();
    connect::measure(&mut report);
    memory::measure(&mut report);
    agent::measure(&mut report);
    cni::measure(&mut report);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let text = serde_json::to_string_pretty(&report.0).expect("rows are plain");
    fs::create_dir_all(&dir).expect("target is writable");
    fs::write(dir.join("results.json"), text).expect("target is writable");
    let missed = report.0.iter().filter(|row| !row.pass).count();
    eprintln!("{} figures, {missed} missed; kernel {}", report.0.len(), release.trim());
    ExitCode::SUCCESS
}
