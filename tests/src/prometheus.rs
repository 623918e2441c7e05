//! A real Prometheus that scrapes the agents of a test, and promtool, which judges rules.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Cgroup, NetNs, Place, Process, TempDir, http_get, must::Must, node::address, programs::prometheus_program,
};

/// Where it answers, in its network namespace.
const ADDRESS: &str = "127.0.0.1:9090";
/// How long it may take to start on a busy machine.
const START: Duration = Duration::from_secs(120);

/// A scrape job, as a ServiceMonitor would make it: each target is an instance.
#[derive(Clone, Debug)]
pub struct Job {
    /// The label `job`.
    pub name: &'static str,
    /// Addresses of the metrics, and the label `node` of those on a node.
    pub targets: Vec<(SocketAddr, Option<String>)>,
}

/// A series that a query found: one point of an instant, several of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// All labels, the name included where the query kept it.
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970, and values.
    pub points: Vec<(f64, f64)>,
}

/// Prometheus at work. It ends with the value, and its data goes.
#[derive(Debug)]
pub struct Prometheus {
    // Dropped in this order.
    _process: Process,
    _cgroup: Cgroup,
    _files: TempDir,
    netns: NetNs,
}

impl Prometheus {
    /// How often it scrapes. The agents have new values once a second: one that scrapes as often sees some twice.
    pub const SCRAPE: Duration = Duration::from_secs(2);

    /// Starts it in a network namespace with rules, and waits until it answers.
    ///
    /// # Panics
    /// When it is not built, refuses its configuration or takes longer than two minutes.
    #[must_use]
    #[track_caller]
    pub fn start(netns: NetNs, jobs: &[Job], rules: &Path) -> Self {
        let (cgroup, files) = (Cgroup::new("prometheus"), TempDir::new("prometheus"));
        let config = files.write("prometheus.yml", configuration(jobs, rules));
        let place = Place::default().in_netns(&netns).in_cgroup(&cgroup);
        let mut command = place.command(prometheus_program("prometheus"));
        command.arg("--config.file").arg(config);
        command.arg("--storage.tsdb.path").arg(files.path().join("data"));
        command.args(["--web.listen-address", ADDRESS, "--log.level", "warn"]);
        let mut process = Process::start("prometheus", &mut command).brief();
        let answers = || netns.run(|| http_get(address(ADDRESS), "/-/ready"));
        process.wait_ready(START, || answers().is_some_and(|(status, _)| status == 200));
        Self { _process: process, _cgroup: cgroup, _files: files, netns }
    }

    /// What a query finds now.
    ///
    /// # Errors
    /// Why Prometheus refuses it.
    pub fn query(&self, expression: &str) -> Result<Vec<Series>, String> {
        self.ask("query", &[("query", expression)]).map(|data| series(&data))
    }

    /// What a query finds in a range, in seconds since 1970, at every step.
    ///
    /// # Errors
    /// Why Prometheus refuses it.
    pub fn query_range(
        &self,
        expression: &str,
        (from, to): (f64, f64),
        step: f64,
    ) -> Result<Vec<Series>, String> {
        let [start, end, step] = [from, to, step].map(|number| number.to_string());
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        self.ask("query_range", &parameters).map(|data| series(&data))
    }

    /// `data` of an answer of the HTTP API: a path below `/api/v1`, and parameters.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let pairs: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let path = format!("/api/v1/{path}?{}", pairs.join("&"));
        let (_, body) =
            self.netns.run(|| http_get(address(ADDRESS), &path)).ok_or("Prometheus does not answer")?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(format!("{path}: {body}")) }
    }
}

impl Series {
    /// A label, empty when it has none.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Runs promtool.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn promtool(arguments: &[&str]) -> Output {
    Command::new(prometheus_program("promtool")).args(arguments).output().must("run promtool")
}

fn configuration(jobs: &[Job], rules: &Path) -> String {
    let interval = format!("{}s", Prometheus::SCRAPE.as_secs());
    let mut text = format!(
        "global: {{scrape_interval: {interval}, scrape_timeout: {interval}, evaluation_interval: {interval}}}\n\
         rule_files: ['{}']\nscrape_configs:\n",
        rules.display()
    );
    for Job { name, targets } in jobs {
        // Writing to a string cannot fail.
        write!(text, "- job_name: {name}\n  static_configs:\n").ok();
        for (target, node) in targets {
            let node = node.as_ref().map_or(String::new(), |node| format!(", labels: {{node: {node}}}"));
            writeln!(text, "  - {{targets: ['{target}']{node}}}").ok();
        }
    }
    text
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        if byte.is_ascii_alphanumeric() {
            all.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            write!(all, "%{byte:02X}").ok();
        }
        all
    })
}

/// Of a `vector`, a `matrix` or a `scalar`.
fn series(data: &Value) -> Vec<Series> {
    let point = |point: &Value| {
        let value = point[1].as_str().must("read a point");
        (point[0].as_f64().must("read a time"), value.parse().must("read a value"))
    };
    if data["resultType"] == "scalar" {
        return vec![Series { labels: BTreeMap::new(), points: vec![point(&data["result"])] }];
    }
    let found = data["result"].as_array().must("read the series of a query");
    let one = |found: &Value| {
        let labels = found["metric"].as_object().must("read the labels of a series");
        let points = match found["values"].as_array() {
            Some(values) => values.iter().map(point).collect(),
            None => vec![point(&found["value"])],
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Series { labels: labels.iter().map(|(name, value)| (name.clone(), text(value))).collect(), points }
    };
    found.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encoded("a{b=\"c\"}[1m]"), "a%7Bb%3D%22c%22%7D%5B1m%5D");
    }

    #[test]
    fn series_are_read() {
        let data = json!({"resultType": "vector", "result": [{"metric": {"a": "b"}, "value": [1.5, "NaN"]}]});
        let found = series(&data);
        assert_eq!((found[0].label("a"), found[0].label("c")), ("b", ""));
        assert!(found[0].points[0].1.is_nan());
        let data =
            json!({"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "2"], [2, "+Inf"]]}]});
        assert_eq!(series(&data)[0].points, [(1.0, 2.0), (2.0, f64::INFINITY)]);
    }
}
