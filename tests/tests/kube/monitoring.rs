//! A real Prometheus scrapes real agents and a controller under load: every query of the dashboard finds something, every
//! alert is silent while all is well and finds its trouble. `BALANCING_DRAW` draws the dashboard of such a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use balancing_core::names::{DEFAULT_VNI, DEFAULT_VXLAN_PORT};
use balancing_tests::*;
use serde_json::Value;

use crate::{
    dashboard::{Dashboard, Panel, Query, View, escaped},
    fabric_hosts::{FRONT, Fabric, bind_host, pod_on, policy, tunnel_fabric},
    picture::{Drawn, Line, draw},
    world::{NAMESPACE, answered_by, repository},
};

/// Where the picture goes, from the root of the repository.
const DRAW: &str = "BALANCING_DRAW";
/// How long something may take until Prometheus shows it.
const LATE: Duration = Duration::from_secs(180);
/// Between the points of a picture, in seconds.
const STEP: f64 = Prometheus::SCRAPE.as_secs_f64();
/// What the configuration of a pod network looks like.
const LIST: &str = "{\"cniVersion\": \"1.0.0\", \"name\": \"net\", \"plugins\": [{\"type\": \"bridge\"}]}";
/// Frontends that `n3` has room for.
const ROOM: u8 = 8;
const CACHE: &str = "169.254.0.10:80";
const MIRROR: &str = "10.99.0.2:80";
const EMPTY: &str = "10.99.0.3:80";

/// A cluster under load, and who watches it.
struct Watched {
    prometheus: Prometheus,
    load: Load,
    fabric: Fabric,
    cni: TempDir,
    /// The instances: agents of the nodes and of the host outside, then the controller.
    instances: Vec<String>,
    /// Expressions of the alerts, as Prometheus has loaded them.
    alerts: BTreeMap<String, String>,
    began: f64,
}

/// What makes connections, and answers them.
struct Load {
    clients: Vec<Client>,
    _servers: Vec<EchoServer>,
    _places: Vec<Sandbox>,
}

/// A policy that changes all the time.
fn mirror(backends: &[&str]) -> Object {
    Object::balancing_to("mirror", "10.99.0.2", 80, backends)
}

/// Policies that `n3` has no room for.
fn extra(number: u8) -> Object {
    Object::balancing_to(&format!("extra{number}"), &format!("10.98.0.{number}"), 80, &["10.1.0.2"])
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Connections to an address, some dozens a second.
fn connecting(mut client: Client, to: &str) -> Client {
    let pause = Some(Duration::from_millis(25));
    client.start_churn(&Churn { pause, ..Churn::to(Kind::Tcp4, address(to)) });
    client
}

impl Load {
    fn start(fabric: &Fabric) -> Self {
        let [n1, n2, _] = &fabric.nodes[..] else { panic!("three nodes") };
        let plane = &fabric.world.plane;
        let proxied = plane.run_pod(&pod_on("n1", "web", "10.244.1.5"));
        let cache = plane.run_pod(&Object::pod("cache", "cache", &["10.1.0.1"]));
        let places = vec![n1.overlay_pod(&proxied, &["10.244.1.5"]), n1.sandbox(&cache)];
        let servers = vec![
            EchoServer::start(&places[0].netns, "web", &[address("10.244.1.5:80")]),
            n1.serve("cache", &["10.1.0.1:80"]),
            n1.serve("origin", &[CACHE]),
            n2.serve("mirror", &["10.1.0.2:80", "10.1.0.3:80"]),
        ];
        let limited = Object::local_redirect("cache", "169.254.0.10", 80, "cache");
        let limited = limited.with("/spec/qosLimit", 10).with("/spec/skipRedirectFromBackend", true);
        for object in
            [policy(), limited, mirror(&["10.1.0.2"]), Object::balancing("empty", "10.99.0.3", 80, "nobody")]
        {
            fabric.world.put(&object);
        }
        let clients = [
            (fabric.outside.client(), FRONT, "web"),
            (n1.client(), CACHE, "cache"),
            (places[1].client(), CACHE, "origin"),
            (n2.client(), MIRROR, "mirror"),
        ];
        let clients = clients.map(|(mut client, to, wanted)| {
            answered_by(&mut client, to, wanted);
            connecting(client, to)
        });
        Self { clients: clients.into(), _servers: servers, _places: places }
    }
}

impl Watched {
    fn start() -> Self {
        let cni = TempDir::new("monitoring-cni");
        for directory in ["net.d", "bin", "var/lib/cni/results"] {
            fs::create_dir_all(cni.path().join(directory)).unwrap();
        }
        cni.write("net.d/10-net.conflist", LIST);
        let flags = |node: &str| match node {
            "n1" => cni_flags(&cni),
            "n3" => vec![format!("--max-frontends={ROOM}")],
            _ => Vec::new(),
        };
        let mut fabric = Fabric::start_flagged(flags, |world| {
            let account = world.plane.service_account_kubeconfig(NAMESPACE, "edge-1");
            bind_host(world, "edge-1");
            account
        });
        fabric.start_agents();
        fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
        fabric.permit();
        fabric.world.controller.borrow().wait_elected();
        let load = Load::start(&fabric);
        let watcher = NetNs::new();
        for host in [fabric.world.controller.borrow().host(), &watcher] {
            fabric.underlay.join(host);
        }
        let at = |number, port| (Underlay::addresses(number, 2)[0], port).into();
        // The fourth is a host outside.
        let agent = |number| (at(number, 5811), (number < 4).then(|| format!("n{number}")));
        let jobs = [
            Job { name: "balancing-agent", targets: (1..=4).map(agent).collect() },
            Job { name: "balancing-controller", targets: vec![(at(5, 5813), None)] },
        ];
        let instances = jobs.iter().flat_map(|job| &job.targets).map(|(at, _)| at.to_string()).collect();
        let rules = repository().join("install/monitoring/alerts.yaml");
        let prometheus = Prometheus::start(watcher, &jobs, &rules);
        let alerts = loaded_alerts(&prometheus);
        Self { prometheus, load, fabric, cni, instances, alerts, began: seconds() }
    }

    /// Waits until an alert's expression finds its trouble, at that instance if there is one.
    #[track_caller]
    fn wait_alert(&self, name: &str, instance: Option<usize>) {
        let expression = &self.alerts[name];
        let wanted = instance.map_or("", |number| &self.instances[number]);
        eventually_within(LATE, || {
            let found = self.prometheus.query(expression)?;
            let is_there = found.iter().any(|series| series.label("instance") == wanted);
            if is_there { Ok(()) } else { Err(format!("{name}: {found:?}, not at '{wanted}'")) }
        });
    }

    /// Waits until an alert's expression finds nothing any more.
    #[track_caller]
    fn wait_silent(&self, name: &str) {
        eventually_within(LATE, || match self.prometheus.query(&self.alerts[name])? {
            found if found.is_empty() => Ok(()),
            found => Err(format!("{name}: {found:?}")),
        });
    }

    /// What is wrong with the queries of the dashboard.
    fn wrong_queries(&self, dashboard: &Dashboard, instance: &str) -> Result<(), String> {
        let view = View { instance, step: STEP };
        let queries =
            dashboard.panels().flat_map(|panel| panel.queries.iter().map(move |query| (panel, query)));
        let wrong = queries.filter_map(|(panel, query)| {
            let found = self.prometheus.query(&query.expression(view));
            let why = found.and_then(|found| is_sound(query, &found)).err()?;
            Some(format!("{}: {}: {why}", panel.title, query.expression(view)))
        });
        let wrong: Vec<String> = wrong.collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// While all is well.
    fn well(&self, dashboard: &Dashboard) {
        let all = dashboard.variable["allValue"].as_str().unwrap();
        eventually_within(LATE, || self.wrong_queries(dashboard, all));
        // What n1 alone shows: it has all that a node can have.
        eventually_within(LATE, || self.wrong_queries(dashboard, &escaped(&self.instances[0])));
        let variable = dashboard.variable["query"].as_str().unwrap();
        let (metric, label) = variable.strip_prefix("label_values(").unwrap().split_once(", ").unwrap();
        let path = format!("label/{}/values", label.strip_suffix(')').unwrap());
        let values = self.prometheus.ask(&path, &[("match[]", metric)]).unwrap();
        assert_eq!(values, serde_json::json!(self.instances[..4]));
        // A busy machine may miss a scrape, which is trouble for a moment.
        self.alerts.keys().for_each(|name| self.wait_silent(name));
    }

    /// Troubles that pass.
    fn passing_troubles(&self) {
        let refused = connecting(self.fabric.nodes[1].client(), EMPTY);
        self.wait_alert("BalancingNoBackend", Some(1));
        (1..=ROOM).for_each(|number| drop(self.fabric.world.put(&extra(number))));
        let alerts = ["AgentNotReady", "PolicyFailed", "TableNearlyFull", "TableDropped"];
        alerts.iter().for_each(|name| self.wait_alert(&format!("Balancing{name}"), Some(2)));
        self.fabric.underlay.router().run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // The header of VXLAN with the fabric's number: to others the kernel has no device.
            let mut packet = [0; 64];
            packet[0] = 8;
            packet[4..7].copy_from_slice(&DEFAULT_VNI.to_be_bytes()[1..]);
            socket.send_to(&packet, ("192.168.1.2", DEFAULT_VXLAN_PORT)).unwrap();
        });
        self.wait_alert("BalancingTunnelIntruder", Some(0));
        self.hold(15.0);
        drop(refused);
        (1..=ROOM).for_each(|number| self.fabric.world.delete(&extra(number)));
        ["AgentNotReady", "PolicyFailed", "TableNearlyFull"]
            .iter()
            .for_each(|name| self.wait_silent(&format!("Balancing{name}")));
    }

    /// Troubles that stay.
    fn lasting_troubles(&mut self) {
        let path = self.cni.path().join("net.d/10-net.conflist");
        let other = |stop: &AtomicBool| {
            while !stop.load(Relaxed) {
                if fs::read_to_string(&path).is_ok_and(|text| text != LIST) {
                    self.cni.write("net.d/10-net.conflist", LIST);
                }
                thread::sleep(Duration::from_millis(100));
            }
        };
        beside(other, || {
            self.wait_alert("BalancingCniFight", Some(0));
            self.wait_alert("BalancingCniNotInForce", Some(0));
        });
        self.load.clients.clear();
        self.fabric.outside.agent().kill();
        self.wait_alert("BalancingAgentAway", Some(3));
        self.fabric.world.plane.stop_api_server();
        self.wait_alert("BalancingSourceProblems", Some(0));
        self.wait_alert("BalancingNoLeader", None);
        self.wait_alert("BalancingClusterNotSynced", None);
    }

    /// Leaves things as they are for some seconds, so that a picture shows them.
    fn hold(&self, duration: f64) {
        if env::var_os(DRAW).is_some() {
            let until = seconds() + duration;
            wait_until(LATE, || seconds() > until);
        }
    }

    /// Draws what the dashboard shows of the run so far, where that is wanted.
    fn draw(&self, dashboard: &Dashboard) {
        let Some(file) = env::var_os(DRAW) else { return };
        let range = (self.began, seconds());
        let rows = dashboard.rows.iter().map(|row| {
            let panels = row.panels.iter().map(|panel| self.drawn(panel, range));
            (row.title.clone(), panels.collect())
        });
        fs::write(repository().join(file), draw(&rows.collect::<Vec<_>>(), range.1 - range.0)).unwrap();
    }

    fn drawn(&self, panel: &Panel, range: (f64, f64)) -> Drawn {
        let lines = panel.queries.iter().flat_map(|query| {
            let expression = query.expression(View { instance: ".*", step: STEP });
            let found = self.prometheus.query_range(&expression, range, STEP).unwrap();
            let line = |series: Series| Line {
                name: query.name(&series),
                points: series.points.iter().map(|(at, value)| (at - range.0, *value)).collect(),
            };
            found.into_iter().map(line).collect::<Vec<_>>()
        });
        let mut lines: Vec<Line> = lines.collect();
        if !panel.is_stat {
            lines.sort_by(|one, other| other.highest().total_cmp(&one.highest()));
        }
        Drawn {
            title: panel.title.clone(),
            unit: panel.unit.clone(),
            is_stat: panel.is_stat,
            width: panel.width,
            lines,
        }
    }
}

/// Directories of the CNI plugin that are not the machine's.
fn cni_flags(directory: &TempDir) -> Vec<String> {
    let root = directory.path().display();
    vec![
        "--install-cni".to_owned(),
        format!("--host-root={root}"),
        format!("--cni-net-dir={root}/net.d"),
        format!("--cni-bin-dir={root}/bin"),
    ]
}

/// The alerts by name, once Prometheus has evaluated each without error.
fn loaded_alerts(prometheus: &Prometheus) -> BTreeMap<String, String> {
    eventually_within(LATE, || {
        let groups = prometheus.ask("rules", &[])?;
        let rules =
            groups["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array());
        let rules: Vec<&Value> = rules.flatten().collect();
        if rules.is_empty() || rules.iter().any(|rule| rule["health"] != "ok") {
            return Err(format!("{groups:#}"));
        }
        let text = |rule: &Value, field: &str| rule[field].as_str().unwrap().to_owned();
        Ok(rules.into_iter().map(|rule| (text(rule, "name"), text(rule, "query"))).collect())
    })
}

/// A query has found numbers, and the labels that its legend names.
fn is_sound(query: &Query, found: &[Series]) -> Result<(), String> {
    if found.is_empty() {
        return Err("nothing".to_owned());
    }
    for series in found {
        if series.points.iter().any(|point| !point.1.is_finite()) {
            return Err(format!("no number: {series:?}"));
        }
        if let Some(label) = query.labels().into_iter().find(|label| series.label(label).is_empty()) {
            return Err(format!("no label {label}: {series:?}"));
        }
    }
    Ok(())
}

/// The selectors in an expression, by the syntax tree that Prometheus makes of it.
fn selectors(prometheus: &Prometheus, expression: &str) -> BTreeSet<String> {
    let mut nodes = vec![prometheus.ask("parse_query", &[("query", expression)]).unwrap()];
    let mut found = BTreeSet::new();
    while let Some(node) = nodes.pop() {
        if ["vectorSelector", "matrixSelector"].iter().any(|kind| node["type"] == **kind) {
            let matchers = node["matchers"].as_array().unwrap().iter().map(|matcher| {
                let [name, kind, value] =
                    ["name", "type", "value"].map(|field| matcher[field].as_str().unwrap());
                format!("{name}{kind}{value:?}")
            });
            found.insert(format!("{{{}}}", matchers.collect::<Vec<_>>().join(",")));
        }
        match node {
            Value::Object(fields) => nodes.extend(fields.into_iter().map(|(_, value)| value)),
            Value::Array(items) => nodes.extend(items),
            _ => {}
        }
    }
    assert!(!found.is_empty(), "{expression} selects nothing");
    found
}

/// Every family that docs/metrics.md lists, by the name that its rows have.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `balancing_"));
    let families = rows.map(|row| {
        let (name, rest) = row.split_once('`').unwrap();
        let suffix = if rest.starts_with(" | histogram ") { "_bucket" } else { "" };
        format!("balancing_{name}{suffix}")
    });
    families.collect()
}

#[test]
fn the_dashboard_and_the_alerts_are_true() {
    if !require_kernel() {
        return;
    }
    let dashboard = Dashboard::read();
    let mut watched = Watched::start();
    let client = watched.fabric.world.plane.client();
    let changes = |stop: &AtomicBool| {
        for turn in 0_u32.. {
            if stop.load(Relaxed) {
                break;
            }
            let backends = [&["10.1.0.2"][..], &["10.1.0.2", "10.1.0.3"]][turn as usize % 2];
            client.put(&mirror(backends)).unwrap();
            thread::sleep(Duration::from_millis(500));
        }
    };
    beside(changes, || {
        watched.well(&dashboard);
        watched.hold(30.0);
        watched.passing_troubles();
        watched.hold(15.0);
        watched.draw(&dashboard);
    });
    watched.lasting_troubles();
    let prometheus = &watched.prometheus;
    let view = View { instance: ".*", step: STEP };
    let queries = dashboard.panels().flat_map(|panel| &panel.queries).map(|query| query.expression(view));
    for expression in queries.chain(watched.alerts.values().cloned()) {
        for selector in selectors(prometheus, &expression) {
            let found = prometheus.query(&format!("last_over_time({selector}[1h])")).unwrap();
            assert!(!found.is_empty(), "{expression}: no {selector}");
        }
    }
    let names = prometheus.ask("label/__name__/values", &[]).unwrap();
    let scraped: BTreeSet<String> = serde_json::from_value(names).unwrap();
    let missing: Vec<_> = documented().into_iter().filter(|name| !scraped.contains(name)).collect();
    assert_eq!(missing, Vec::<String>::new(), "never scraped");
}

#[test]
fn every_alert_fires_for_a_bad_series_and_is_silent_for_a_good_one() {
    let rules = repository().join("install/monitoring/alerts.yaml");
    let tests = repository().join("tests/monitoring/alerts.test.yaml");
    for (words, file) in
        [(&["check", "rules", "--lint-fatal"], &rules), (&["test", "rules", "--diff"], &tests)]
    {
        let arguments = [&words[..], &[file.to_str().unwrap()]].concat();
        let said = promtool(&arguments);
        let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "promtool {}: {text}", words.join(" "));
    }
    let read = |file| -> Value { yaml_serde::from_str(&fs::read_to_string(file).unwrap()).unwrap() };
    let (rules, tests) = (read(&rules), read(&tests));
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let rules = list(&rules, "groups").into_iter().flat_map(|group| list(&group, "rules"));
    let names: BTreeSet<String> = rules.map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
    let cases: Vec<Value> =
        list(&tests, "tests").iter().flat_map(|test| list(test, "alert_rule_test")).collect();
    for fires in [true, false] {
        let tested = cases.iter().filter(|case| list(case, "exp_alerts").is_empty() != fires);
        let tested: BTreeSet<String> =
            tested.map(|case| case["alertname"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names, tested, "alerts with a test in which they fire: {fires}");
    }
}
