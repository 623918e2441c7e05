//! Health and metrics over HTTP, of an agent at work.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeMap, fs, net::SocketAddr};

use balancing_tests::*;

const FRONTEND: &str = "10.96.0.1:80";

/// A GET from the node itself: status and body.
fn get(node: &Node, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    node.host().run(|| http_get(address, path)).ok_or(format!("no answer at {address}{path}"))
}

fn health(node: &Node, path: &str) -> Result<(u16, String), String> {
    get(node, node.view()?.http.ok_or("no address")?, path)
}

/// One family of an exposition: its type and its rows, by name and labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    rows: BTreeMap<String, f64>,
}

/// Reads OpenMetrics text strictly: each family is described once, before its rows; names fit the type; no row is
/// there twice; the text ends with its mark.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let (mut current, mut helped) = (String::new(), String::new());
    let text = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("cut off: {text}"));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next().unwrap().to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped, "help and type stand together");
            let family = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} is described twice");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(name == current && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let (row, value) = line.rsplit_once(' ').unwrap();
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("no family: {line}"));
            let suffix = row.split('{').next().unwrap().strip_prefix(&current).unwrap_or("?");
            let fits: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("type {other}"),
            };
            assert!(fits.contains(&suffix), "{line}");
            assert!(family.rows.insert(row.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    families
}

fn scrape(node: &Node) -> Result<BTreeMap<String, f64>, String> {
    let (status, text) = get(node, node.view()?.metrics.ok_or("no address")?, "/metrics")?;
    if status != 200 {
        return Err(format!("{status}: {text}"));
    }
    Ok(parse(&text).into_values().flat_map(|family| family.rows).collect())
}

/// Waits until a row is as wanted; the text may be a second old.
#[track_caller]
fn wait_row(node: &Node, row: &str, wanted: f64) -> BTreeMap<String, f64> {
    eventually(|| {
        let rows = scrape(node)?;
        let found = rows.get(row).copied();
        if found == Some(wanted) { Ok(rows) } else { Err(format!("{row} is {found:?}, not {wanted}")) }
    })
}

#[test]
fn it_is_ready_when_the_directory_is_there() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("http-ready");
    fs::remove_dir(node.objects()).unwrap();
    node.start_until(|view| !view.source.problems.is_empty());
    assert_eq!(health(&node, "/healthz").unwrap().0, 200);
    let (status, reasons) = health(&node, "/readyz").unwrap();
    let lines: Vec<&str> = reasons.lines().collect();
    assert_eq!(status, 503, "{reasons}");
    assert!(lines[0].contains("has not delivered its complete list"), "{reasons}");
    assert!(reasons.contains(node.objects().to_str().unwrap()), "{reasons}");
    assert!(lines.iter().any(|line| line.starts_with("not attached: ")), "{reasons}");
    wait_row(&node, "balancing_ready", 0.0);

    fs::create_dir(node.objects()).unwrap();
    eventually(|| match health(&node, "/readyz")? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let rows = wait_row(&node, "balancing_ready", 1.0);
    assert_eq!((rows["balancing_source_synced"], rows["balancing_host_attached"]), (1.0, 1.0));

    let status = node.ctl_json(&["status"]);
    let address = node.view().unwrap().http.unwrap();
    assert_eq!(status["http"], address.to_string());
    assert!(node.agent().log().contains("listening"));
    assert!(node.agent().terminate().success());
    assert!(get(&node, address, "/healthz").is_err(), "nobody listens any more");
}

#[test]
fn counters_of_a_policy_never_go_back() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("http-counters");
    let _servers = [node.serve("original", &[FRONTEND]), node.serve("local", &["10.1.0.1:80"])];
    node.apply(&Object::pod("local", "local", &["10.1.0.1"]));
    let policy = Object::local_redirect("policy", "10.96.0.1", 80, "local");
    node.apply(&policy);
    node.start();
    let redirected = "balancing_redirected_total{kind=\"LocalRedirectPolicy\",name=\"policy\"}";
    let mut client = node.client();
    let mut connect = |count, answer: &str| {
        for _ in 0..count {
            assert_eq!(client.ask_tcp(address(FRONTEND)).as_deref(), Ok(answer));
        }
    };
    connect(3, "local");
    let rows = wait_row(&node, redirected, 3.0);
    assert_eq!(rows["balancing_policies{kind=\"LocalRedirectPolicy\",reason=\"Applied\"}"], 1.0);
    assert_eq!((rows["balancing_frontends"], rows["balancing_objects{kind=\"Pod\"}"]), (1.0, 1.0));
    assert_eq!(rows["balancing_table_entries{table=\"frontends\"}"], 1.0);
    assert_eq!(rows["balancing_hook_errors_total{hook=\"connect4\"}"], 0.0);

    // The frontend goes without having been looked at since, and comes back with counters of zero.
    connect(2, "local");
    node.apply(&policy.clone().with("/spec/enabled", false));
    node.wait_policy("policy", |view| view.reason == "Disabled");
    connect(1, "original");
    wait_row(&node, redirected, 5.0);
    node.apply(&policy);
    node.wait_policy("policy", |view| view.programmed);
    connect(4, "local");
    let rows = wait_row(&node, redirected, 9.0);
    assert_eq!(rows["balancing_frontends_removed_total"], 1.0);

    // Another service id: the same frontend counts on for the same policy.
    node.apply(&policy.clone().annotated("balancing.elf.io/serviceId", "77"));
    node.wait_policy("policy", |view| view.service_id == 77 && view.programmed);
    connect(1, "local");
    wait_row(&node, redirected, 10.0);

    // The pod goes: the policy has nothing to decide, and what it counted stays.
    node.apply(&Object::pod("local", "local", &["10.1.0.1"]).unready());
    node.wait_backends("policy", 0);
    wait_row(&node, redirected, 10.0);
    node.delete(&policy);
    eventually(|| {
        let rows = scrape(&node)?;
        rows.get(redirected).map_or(Ok(()), |found| Err(format!("{redirected} is still there: {found}")))
    });
}

#[test]
fn a_frontend_that_passes_on_counts_for_its_new_policy() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("http-pass");
    let _servers = [node.serve("a", &["10.1.0.1:80"]), node.serve("b", &["10.1.0.2:80"])];
    let policy = |name: &str, backend: &str| Object::balancing_to(name, "10.96.0.1", 80, &[backend]);
    let old = policy("old", "10.1.0.1").created(1);
    node.apply(&old);
    node.apply(&policy("young", "10.1.0.2").created(2));
    node.start();
    let mut client = node.client();
    assert_eq!(client.ask_tcp(address(FRONTEND)).as_deref(), Ok("a"));
    let row = |name: &str| format!("balancing_redirected_total{{kind=\"BalancingPolicy\",name=\"{name}\"}}");
    let rows = wait_row(&node, &row("old"), 1.0);
    assert_eq!(rows.get(&row("young")), None);
    assert_eq!(client.ask_tcp(address(FRONTEND)).as_deref(), Ok("a"));
    node.apply(&old.with("/spec/enabled", false));
    node.wait_policy("young", |view| view.programmed);
    assert_eq!(client.ask_tcp(address(FRONTEND)).as_deref(), Ok("b"));
    let rows = wait_row(&node, &row("young"), 1.0);
    assert_eq!(rows[&row("old")], 2.0, "what it counted stays");
}

#[test]
fn a_policy_that_does_not_fit_is_told() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("http-full", &["--max-backends", "2"]);
    let two = ["192.0.2.1", "192.0.2.2"];
    let policy =
        |number: u8| Object::balancing_to(&format!("p{number}"), &format!("10.97.0.{number}"), 80, &two);
    (1..=2).for_each(|number| node.apply(&policy(number)));
    node.start_until(|view| view.source.synced && !view.problems.is_empty());
    let failed = "balancing_policy_failed{kind=\"BalancingPolicy\",name=\"p2\",reason=\"TableFull\"}";
    let rows = wait_row(&node, failed, 1.0);
    assert_eq!((rows["balancing_frontends"], rows["balancing_frontends_failed"]), (1.0, 1.0));
    for reason in ["Applied", "TableFull"] {
        assert_eq!(rows[&format!("balancing_policies{{kind=\"BalancingPolicy\",reason=\"{reason}\"}}")], 1.0);
    }
    assert!(rows["balancing_frontend_failures_total{reason=\"TableFull\"}"] >= 1.0);
    let full = ["table_entries", "table_capacity"]
        .map(|name| rows[&format!("balancing_{name}{{table=\"backends\"}}")]);
    assert_eq!(full, [2.0, 2.0]);
    let (status, reasons) = health(&node, "/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(reasons.contains("10.97.0.2:80/TCP") && reasons.contains("raise --max-backends"), "{reasons}");

    node.delete(&policy(1));
    node.wait_view(|view| view.ready);
    let rows = wait_row(&node, "balancing_frontends_failed", 0.0);
    assert_eq!(rows.get(failed), None);
    assert_eq!(health(&node, "/readyz").unwrap().0, 200);
}

#[test]
fn it_listens_where_it_is_told_and_nowhere_when_switched_off() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("http-off", &["--http", "off", "--metrics", ""]);
    node.start();
    let view = node.view().unwrap();
    assert_eq!((view.http, view.metrics), (None, None));
    assert_eq!(node.ctl_json(&["status"])["metrics"], serde_json::Value::Null);

    let mut node = Node::with("http-default", &["--http", "127.0.0.1:5810", "--metrics", ":5811"]);
    node.start();
    assert_eq!(health(&node, "/readyz").unwrap().0, 200);
    assert_eq!(get(&node, address("127.0.0.1:5811"), "/metrics").unwrap().0, 200);
    assert_eq!(get(&node, address("[::1]:5811"), "/metrics").unwrap().0, 200);

    // The port is taken: another agent of the same network namespace says so.
    let run = TempDir::new("http-busy");
    let mut second = Agent::new(&Place::default().in_netns(node.host()))
        .args(["--source", &format!("dir:{}", run.path().display()), "--node-name", "n1"])
        .args(["--run-dir".as_ref(), run.path().as_os_str()])
        .args(["--http", "127.0.0.1:5810"])
        .command();
    let output = second.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("--http 127.0.0.1:5810: cannot listen") && words.contains("`off`"), "{words}");
}
