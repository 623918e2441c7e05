//! The figures of a bench: a table on standard error as they come, and a file of them all.

use std::{fs, path::Path};

use balancing_tests::program;
use serde::Serialize;

/// One row of a file in `target/bench`.
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
pub(crate) struct Report(Vec<Row>);

impl Report {
    /// A value that must not exceed a bound.
    pub(crate) fn at_most(&mut self, name: &str, value: f64, unit: &'static str, target: f64) {
        self.push(Row { name: name.to_owned(), value, unit, target: Some(target), pass: value <= target });
    }

    /// A value that is only told.
    pub(crate) fn tell(&mut self, name: &str, value: f64, unit: &'static str) {
        self.push(Row { name: name.to_owned(), value, unit, target: None, pass: true });
    }

    fn push(&mut self, row: Row) {
        let target = row.target.map(|t| format!("(target <= {t})")).unwrap_or_default();
        let verdict = match (row.target, row.pass) {
            (None, _) => "",
            (_, true) => "ok",
            (_, false) => "MISSED",
        };
        eprintln!("{:78} {:>10.2} {:8} {target:18} {verdict}", row.name, row.value, row.unit);
        self.0.push(row);
    }

    /// Writes a file of `target/bench` and says how many figures missed their bounds.
    pub(crate) fn write(&self, file: &str) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
        let text = serde_json::to_string_pretty(&self.0).expect("rows are plain");
        fs::create_dir_all(&dir).expect("target is writable");
        fs::write(dir.join(file), text).expect("target is writable");
        let missed = self.0.iter().filter(|row| !row.pass).count();
        eprintln!("{} figures, {missed} missed; target/bench/{file}", self.0.len());
    }
}

/// Says on what machine which agent is measured.
///
/// # Panics
/// When the agent is a debug build, whose figures mean nothing.
pub(crate) fn introduce() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (release, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let agent = program("balancing-agent");
    let debug = agent.parent().is_some_and(|directory| directory.ends_with("debug"));
    assert!(
        !debug,
        "{}: run `cargo bench`, or name a directory of release binaries by BALANCING_BIN",
        agent.display()
    );
    eprintln!("kernel {}, {cpus} CPUs, load {}; {}", release.trim(), load.trim(), agent.display());
}

/// The median.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
