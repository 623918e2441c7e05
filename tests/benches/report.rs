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
    /// The bound is the least that the value may be, not the most.
    at_least: bool,
    pass: bool,
    verdict: Verdict,
    #[serde(flatten)]
    detail: Detail,
}

/// What a figure must keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// It may not be more.
    AtMost(f64),
    /// It may not be less.
    AtLeast(f64),
}

/// What a figure comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Within its bound.
    Ok,
    /// Beyond its bound.
    Missed,
    /// The machine was too restless to tell. Passes nothing.
    Noisy,
    /// It has no bound.
    Told,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missed => "MISSED",
            Self::Noisy => "noisy",
            Self::Told => "",
        }
    }
}

/// What stands behind a figure of a hook.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Detail {
    /// The figure by the medians; its value is by the tenth percentiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) median: Option<f64>,
    /// Nanoseconds of a call above none, tenth percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p10_ns: Option<f64>,
    /// Nanoseconds of a call above none, median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) median_ns: Option<f64>,
    /// Nanoseconds inside the programs above the empty one, by the kernel's run-time statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inside_ns: Option<f64>,
}

/// A figure on its way into the report.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What it is.
    pub(crate) name: String,
    /// The figure.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What it must keep to.
    pub(crate) target: Option<Bound>,
    /// Whether what it rests on differed too much from run to run.
    pub(crate) noisy: bool,
    /// What stands behind it.
    pub(crate) detail: Detail,
}

impl Figure {
    fn verdict(&self) -> Verdict {
        match self.target {
            // A figure that is no number is never within its bound.
            _ if self.noisy || !self.value.is_finite() => Verdict::Noisy,
            None => Verdict::Told,
            Some(Bound::AtMost(target)) if self.value <= target => Verdict::Ok,
            Some(Bound::AtLeast(target)) if self.value >= target => Verdict::Ok,
            Some(_) => Verdict::Missed,
        }
    }
}

/// Collects rows and prints them as they come.
#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    /// A value that must not exceed a bound.
    pub(crate) fn at_most(&mut self, name: &str, value: f64, unit: &'static str, target: f64) {
        self.figure(plain(name, value, unit, Some(Bound::AtMost(target))));
    }

    /// A value that is only told.
    pub(crate) fn tell(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figure(plain(name, value, unit, None));
    }

    /// A value with what stands behind it.
    pub(crate) fn figure(&mut self, figure: Figure) {
        let verdict = figure.verdict();
        let Figure { name, value, unit, target, detail, .. } = figure;
        let at_least = matches!(target, Some(Bound::AtLeast(_)));
        let target = target.map(|(Bound::AtMost(target) | Bound::AtLeast(target))| target);
        let sign = if at_least { ">=" } else { "<=" };
        let bound = target.map(|t| format!("(target {sign} {t})")).unwrap_or_default();
        let word = verdict.word();
        eprintln!("{name:78} {value:>10.2} {unit:8} {bound:18} {word:7}{}", detail.text());
        let pass = matches!(verdict, Verdict::Ok | Verdict::Told);
        self.0.push(Row { name, value, unit, target, at_least, pass, verdict, detail });
    }

    /// Writes a file of `target/bench`, and the same as a table of Markdown beside it, and says how many figures missed
    /// their bounds.
    pub(crate) fn write(&self, file: &str) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
        let text = serde_json::to_string_pretty(&self.0).expect("rows are plain");
        fs::create_dir_all(&dir).expect("target is writable");
        let path = dir.join(file);
        fs::write(path.with_extension("md"), self.markdown()).expect("target is writable");
        fs::write(path, text).expect("target is writable");
        let count = |verdict| self.0.iter().filter(|row| row.verdict == verdict).count();
        let (missed, noisy) = (count(Verdict::Missed), count(Verdict::Noisy));
        eprintln!("{} figures, {missed} missed, {noisy} noisy; target/bench/{file}", self.0.len());
    }

    /// The table of docs/performance.md.
    fn markdown(&self) -> String {
        let mut text = String::from(
            "| figure | value | by medians | target | | ns: p10 / median | ns inside |\n|---|---|---|---|---|---|---|\n",
        );
        for Row { name, value, unit, target, at_least, verdict, detail, .. } in &self.0 {
            let number =
                |value: Option<f64>, digits| value.map(|v| format!("{v:.digits$}")).unwrap_or_default();
            let name = name.trim_start();
            let sign = if *at_least { "≥" } else { "≤" };
            let (value, median) = (number(Some(*value), 2), number(detail.median, 2));
            let target = target.map(|target| format!("{sign} {target}")).unwrap_or_default();
            let ns = [detail.p10_ns, detail.median_ns].map(|ns| number(ns, 0));
            let ns = if ns[0].is_empty() { String::new() } else { ns.join(" / ") };
            let inside = number(detail.inside_ns, 0);
            let verdict = verdict.word();
            text +=
                &format!("| {name} | {value} {unit} | {median} | {target} | {verdict} | {ns} | {inside} |\n");
        }
        text
    }
}

impl Detail {
    /// The same in words, empty when there is nothing.
    fn text(&self) -> String {
        let parts = [
            ("by medians", self.median, 2),
            ("p10 ns", self.p10_ns, 0),
            ("median ns", self.median_ns, 0),
            ("inside ns", self.inside_ns, 0),
        ];
        let parts = parts.into_iter().filter_map(|(name, value, digits)| Some((name, value?, digits)));
        parts.map(|(name, value, digits)| format!(" {name} {value:.digits$}")).collect()
    }
}

fn plain(name: &str, value: f64, unit: &'static str, target: Option<Bound>) -> Figure {
    Figure { name: name.to_owned(), value, unit, target, noisy: false, detail: Detail::default() }
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
