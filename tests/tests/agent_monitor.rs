//! `balancingctl monitor` with the real agent: what it tells of whom, what it leaves out, and that nobody pays for it but who listens.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::Duration,
};

use balancing_core::control::{Request, socket_path};
use balancing_tests::*;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(25);
const LOCAL: &str = "10.96.0.1:80";
const IDLE: &str = "10.96.0.2:80";
const REFUSED: &str = "10.96.0.3:80";
const LIMITED: &str = "10.96.0.4:80";
const FOR_HOST: &str = "10.96.0.5:80";
const SKIPPED: &str = "10.96.0.6:80";
/// For UDP, of which a connection needs nobody who accepts it.
const STORMED: &str = "10.96.0.7:80";

/// A node with a frontend for each thing that can become of a call, and the pod `default/local` behind some of them.
struct World {
    node: Node,
    backend: Object,
    _servers: [EchoServer; 2],
}

impl World {
    fn new(topic: &str) -> Self {
        let mut node = Node::new(topic);
        let frontends = [LOCAL, IDLE, REFUSED, LIMITED, FOR_HOST, SKIPPED];
        let servers = [node.serve("original", &frontends), node.serve("local", &["10.1.0.1:80"])];
        let backend = Object::pod("local", "local", &["10.1.0.1"]);
        let local = |name, address, app| Object::local_redirect(name, address, 80, app);
        for object in [
            backend.clone(),
            local("plain", "10.96.0.1", "local"),
            // The kernel knows a policy that has only backends without weight; one without any is none of its business.
            Object::balancing_to("idle", "10.96.0.2", 80, &[])
                .with("/spec/backend/addressEndpoint/addresses", json!([{"ip": "10.1.0.9", "weight": 0}]))
                .with("/spec/onNoBackend", "Fallback"),
            Object::balancing("refused", "10.96.0.3", 80, "nobody"),
            local("limited", "10.96.0.4", "local").with("/spec/qosLimit", 1),
            local("for-host", "10.96.0.5", "local").with("/spec/clients", "host"),
            local("skipped", "10.96.0.6", "local").with("/spec/skipRedirectFromBackend", true),
            local("stormed", "10.96.0.7", "local")
                .with("/spec/frontend/addressMatcher/toPorts/0/protocol", "UDP")
                .with("/spec/backend/toPorts/0/protocol", "UDP"),
        ] {
            node.apply(&object);
        }
        node.start();
        Self { node, backend, _servers: servers }
    }

    fn is_on(&self) -> bool {
        self.node.reader().events()
    }

    /// Starts a monitor and waits until it listens; the first of a node.
    fn monitor(&self, arguments: &[&str]) -> Process {
        let monitor = self.node.ctl_process(&[&["monitor"], arguments].concat());
        wait_until(SOON, || self.is_on());
        monitor
    }

    /// A listener without a command, which is let in when this returns.
    fn listen(&self) -> Result<BufReader<UnixStream>, String> {
        let mut stream = UnixStream::connect(socket_path(self.node.run_dir())).unwrap();
        let request = serde_json::to_string(&Request::Monitor(Default::default())).unwrap();
        writeln!(stream, "{request}").unwrap();
        let (mut line, mut stream) = (String::new(), BufReader::new(stream));
        stream.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(stream),
        }
    }
}

fn connect(client: &mut Client, to: &str) {
    let socket = client.open(Kind::Tcp4);
    client.connect(socket, address(to)).ok();
    client.close(socket);
}

fn lines(monitor: &Process) -> Vec<Value> {
    let log = monitor.log();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn wait_lines(monitor: &Process, count: usize) -> Vec<Value> {
    eventually(|| {
        let lines = lines(monitor);
        if lines.len() >= count { Ok(lines) } else { Err(format!("{lines:#?}")) }
    })
}

/// Decisions and losses, as counted by who reads the lines.
fn heard(lines: &[Value]) -> (u64, u64) {
    let lost = lines.iter().filter_map(|line| line["lost"].as_u64()).sum();
    (lines.iter().filter(|line| line["lost"].is_null()).count() as u64, lost)
}

/// Frontend, outcome, reason, backend, policy.
fn story(line: &Value) -> Value {
    let socket = |at: &Value| format!("{}:{}", at["address"].as_str().unwrap(), at["port"]);
    let backend = line["backend"].is_object().then(|| socket(&line["backend"]));
    json!([socket(&line["frontend"]), line["outcome"], line["reason"], backend, line["policy"]["name"]])
}

#[test]
fn every_decision_is_told_with_its_client_reason_backend_and_policy() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor");
    let web = Object::pod("web", "client", &["10.200.0.2"]);
    let (web_place, backend_place) = (world.node.sandbox(&web), world.node.sandbox(&world.backend));
    world.node.apply(&web);
    eventually(|| match world.node.ctl_json(&["pods"]).as_array().unwrap().len() {
        2 => Ok(()),
        other => Err(format!("{other} pods have links")),
    });
    let monitor = world.monitor(&["-o", "json"]);
    // Processes of pods are in cgroups of containers; one of them comes after the monitor.
    let container = web_place.cgroup.child("container");
    let mut pod = Client::start(&Place::default().in_netns(&web_place.netns).in_cgroup(&container));
    let (mut host, mut backend) = (world.node.client(), backend_place.client());
    for frontend in [LOCAL, IDLE, REFUSED, FOR_HOST] {
        connect(&mut pod, frontend);
    }
    connect(&mut host, LOCAL);
    connect(&mut backend, SKIPPED);
    let lines = wait_lines(&monitor, 6);
    let stories = [
        json!([LOCAL, "redirected", null, "10.1.0.1:80", "plain"]),
        json!([IDLE, "passed", "noBackend", null, "idle"]),
        json!([REFUSED, "rejected", "noBackend", null, "refused"]),
        json!([FOR_HOST, "passed", "otherClients", null, "for-host"]),
        json!([LOCAL, "redirected", null, "10.1.0.1:80", "plain"]),
        json!([SKIPPED, "passed", "exempt", null, "skipped"]),
    ];
    assert_eq!(lines.iter().map(story).collect::<Vec<_>>(), stories);
    let of_pod = |name: &str, client: &Client| json!({"pod": name, "pid": client.pid(), "process": null});
    let of_host = json!({"pod": null, "pid": host.pid(), "process": "sock"});
    for (number, line) in lines.iter().enumerate() {
        let client = match number {
            4 => of_host.clone(),
            5 => of_pod("default/local", &backend),
            _ => of_pod("default/web", &pod),
        };
        assert_eq!(line["client"], client, "{line}");
    }
    assert_eq!(lines[0]["backend"]["pod"], "default/local");
    assert_eq!(lines[0]["frontend"]["protocol"], "TCP");
    assert_eq!(lines[0]["policy"]["kind"], "LocalRedirectPolicy");
    assert_eq!(lines[2]["policy"]["kind"], "BalancingPolicy");
    let told = eventually(|| {
        connect(&mut host, LIMITED);
        let of = |line: &&Value| line["reason"] == "qosLimit";
        self::lines(&monitor).iter().find(of).cloned().ok_or_else(|| "no limit was reached".to_owned())
    });
    assert_eq!(story(&told), json!([LIMITED, "passed", "qosLimit", null, "limited"]));
}

#[test]
fn a_policy_and_a_pod_that_come_later_have_their_names() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor-news");
    let monitor = world.monitor(&["-o", "json"]);
    let late = Object::pod("late", "client", &["10.200.0.2"]);
    let place = world.node.sandbox(&late);
    world.node.apply(&late);
    world.node.apply(&Object::balancing_to("later", "10.96.0.9", 80, &["10.1.0.1"]));
    let mut client = place.client();
    eventually(|| {
        connect(&mut client, "10.96.0.9:80");
        let named =
            |line: &Value| line["client"]["pod"] == "default/late" && line["policy"]["name"] == "later";
        let lines = lines(&monitor);
        if lines.iter().any(named) { Ok(()) } else { Err(format!("{lines:#?}")) }
    });
}

/// Whether a process has a socket.
fn has_socket(pid: u32) -> bool {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.any(|link| link.to_string_lossy().starts_with("socket:"))
}

#[test]
fn filters_leave_out_what_is_not_wanted() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor-filter");
    let place = world.node.sandbox(&world.backend);
    eventually(|| match world.node.ctl_json(&["pods"]).as_array().unwrap().len() {
        1 => Ok(()),
        other => Err(format!("{other} pods have links")),
    });
    let table = ["--policy", "LocalRedirectPolicy/plain"];
    let filters: [(&[&str], &[Value]); 3] = [
        (&["--policy", "plain"], &[json!([LOCAL, "plain"]), json!([LOCAL, "plain"])]),
        (&["--pod", "default/local"], &[json!([LOCAL, "plain"]), json!([IDLE, "idle"])]),
        (&["--outcome", "passed"], &[json!([IDLE, "idle"]), json!([IDLE, "idle"])]),
    ];
    let monitors: Vec<Process> = filters
        .iter()
        .map(|(arguments, _)| world.monitor(&[arguments, &["-o", "json"][..]].concat()))
        .collect();
    let people = world.monitor(&table);
    // A fifth that came before the fourth would take its place.
    wait_until(SOON, || monitors.iter().chain([&people]).all(|monitor| has_socket(monitor.pid())));
    // All four listen when a fifth is refused.
    wait_until(SOON, || world.listen().is_err());
    let mut clients = [world.node.client(), place.client()];
    for client in &mut clients {
        connect(client, LOCAL);
        connect(client, IDLE);
    }
    for (monitor, (arguments, wanted)) in monitors.iter().zip(filters) {
        let lines = wait_lines(monitor, wanted.len());
        let told: Vec<Value> =
            lines.iter().map(|line| json!([story(line)[0], line["policy"]["name"]])).collect();
        assert_eq!(told, wanted, "{arguments:?}");
    }
    eventually(|| match people.log() {
        log if log.lines().count() == 3 => Ok(()),
        log => Err(log),
    });
    let log = people.log();
    let rows: Vec<&str> = log.lines().collect();
    assert!(rows[0].starts_with("TIME") && rows[0].ends_with("POLICY"), "{log}");
    for (row, client) in [(rows[1], "process sock ("), (rows[2], "pod default/local ")] {
        let at = |word: &str| row.find(word).unwrap_or_else(|| panic!("{word} in {row}"));
        assert!(at(client) < at("10.96.0.1:80/TCP"));
        assert!(at("10.96.0.1:80/TCP") < at("redirected"));
        assert!(at("redirected") < at("10.1.0.1:80 (pod default/local)"));
        assert!(row.ends_with("LocalRedirectPolicy/plain"));
        assert_eq!(rows[0].find("OUTCOME"), Some(at("redirected")));
    }
}

#[test]
fn wrong_arguments_are_told_in_words() {
    if !require_kernel() {
        return;
    }
    let node = Node::new("monitor-usage");
    for (arguments, words) in [
        (["--pod", "web"], "NAMESPACE/NAME"),
        (["--policy", "Policy/dns"], "KIND LocalRedirectPolicy or BalancingPolicy"),
        (["--outcome", "lost"], "redirected, passed, rejected"),
        (["-o", "yaml"], "json for one object a line"),
    ] {
        let output = node.ctl(&[&["monitor"], &arguments[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    for arguments in [&["explain", "10.0.0.1"][..], &["explain", "10.0.0.1:80", "--pod", "web"]] {
        assert_eq!(node.ctl(arguments).status.code(), Some(64), "{arguments:?}");
    }
    let output = node.ctl(&["monitor"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("is balancing-agent running"), "{error}");
}

#[test]
fn events_are_off_again_when_the_last_listener_is_gone() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor-off");
    assert!(!world.is_on());
    // A command that is killed while no event comes.
    let mut monitor = world.monitor(&[]);
    monitor.kill();
    wait_until(SOON, || !world.is_on());
    // Several, one after the other. Ctrl-C is no failure.
    let mut monitors = [world.monitor(&["-o", "json"]), world.monitor(&["-o", "json"])];
    let mut client = world.node.client();
    eventually(|| {
        connect(&mut client, LOCAL);
        let all = monitors.iter().all(|monitor| !lines(monitor).is_empty());
        if all { Ok(()) } else { Err("one of the monitors hears nothing".to_owned()) }
    });
    monitors[0].signal(Signal::SIGINT);
    assert_eq!(monitors[0].wait().code(), Some(0));
    let before = lines(&monitors[1]).len();
    eventually(|| {
        connect(&mut client, LOCAL);
        if lines(&monitors[1]).len() > before {
            Ok(())
        } else {
            Err("the other one hears nothing".to_owned())
        }
    });
    assert!(world.is_on());
    monitors[1].signal(Signal::SIGINT);
    assert_eq!(monitors[1].wait().code(), Some(0));
    wait_until(SOON, || !world.is_on());
}

#[test]
fn a_reader_that_has_seen_enough_ends_it() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor-pipe");
    // The header alone: no event tells the command that its reader is gone.
    let script = r#"{ "$0" monitor --run-dir "$1"; echo "status $?" >&2; } | head -n 1"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(program_path())
        .arg(world.node.run_dir())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "status 0\n");
    assert!(output.stdout.starts_with(b"TIME"));
    wait_until(SOON, || !world.is_on());
}

fn program_path() -> std::path::PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("balancingctl")
}

#[test]
fn an_agent_that_ends_is_told_and_leaves_events_off() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("monitor-agent");
    let mut monitor = world.monitor(&[]);
    assert!(world.node.agent().terminate().success());
    assert_eq!(monitor.wait().code(), Some(1));
    assert!(monitor.log().contains("the agent has ended"), "{}", monitor.log());
    assert!(!world.is_on());
    // Killed, it cannot switch anything; its successor does.
    world.node.start();
    let mut monitor = world.monitor(&[]);
    world.node.agent().kill();
    assert_eq!(monitor.wait().code(), Some(1));
    assert!(world.is_on());
    world.node.start();
    assert!(!world.is_on());
}

#[test]
fn an_agent_that_is_asked_to_end_while_somebody_listens_ends_well() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("monitor-end");
    for round in 1..=10 {
        let mut monitor = world.monitor(&[]);
        let status = world.node.agent().terminate();
        let log = world.node.agent().log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(log.matches("stopped; everything").count(), round, "{log}");
        assert_eq!(monitor.wait().code(), Some(1));
        world.node.start();
    }
}

#[test]
fn only_some_are_served_and_commands_go_on() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor-many");
    let listeners: Vec<_> = (0..4).map(|_| world.listen().unwrap()).collect();
    let monitor = world.node.ctl(&["monitor"]);
    let error = String::from_utf8_lossy(&monitor.stderr);
    assert_eq!(monitor.status.code(), Some(1));
    assert!(error.contains("4 monitors are running"), "{error}");
    // More often than there are places for commands.
    for _ in 0..40 {
        assert!(world.listen().is_err());
        assert!(world.node.view().is_ok());
    }
    drop(listeners);
    let again = eventually(|| world.listen());
    assert!(world.is_on());
    drop(again);
    wait_until(SOON, || !world.is_on());
}

fn storm(client: &mut Client, threads: usize, rounds: u64) -> u64 {
    let to: SocketAddr = address(STORMED);
    let churn =
        Churn { exchange: Exchange::ConnectOnly, threads, rounds: Some(rounds), ..Churn::to(Kind::Udp4, to) };
    let report = client.churn(&churn);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    report.successes()
}

/// Waits until a monitor has told of every connection: as a decision or as a loss.
fn wait_all(monitor: &Process, made: u64) -> (u64, u64) {
    let found = eventually(|| {
        let (told, lost) = heard(&lines(monitor));
        if told + lost >= made {
            Ok((told, lost))
        } else {
            Err(format!("{told} told, {lost} lost of {made}"))
        }
    });
    assert_eq!(found.0 + found.1, made, "told and lost");
    found
}

#[test]
fn in_a_storm_every_connection_is_told_or_counted_as_lost() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor-storm");
    let monitor = world.monitor(&["-o", "json"]);
    let made = storm(&mut world.node.client(), 4, 5_000);
    let (told, _) = wait_all(&monitor, made);
    assert!(told > 0);
}

#[test]
fn a_listener_that_stands_still_keeps_nobody_waiting_and_hears_what_it_missed() {
    if !require_kernel() {
        return;
    }
    let world = World::new("monitor-stopped");
    let stopped = world.monitor(&["-o", "json"]);
    stopped.signal(Signal::SIGSTOP);
    let other = world.node.ctl_process(&["monitor", "--outcome", "rejected"]);
    wait_until(SOON, || other.log().starts_with("TIME"));
    let mut client = world.node.client();
    let made = storm(&mut client, 2, 10_000);
    // Another one hears at once.
    connect(&mut client, REFUSED);
    wait_until(SOON, || other.log().contains("rejected: no backend"));
    stopped.signal(Signal::SIGCONT);
    let (told, lost) = wait_all(&stopped, made + 1);
    assert!(told > 0 && lost > 0, "{told} told, {lost} lost");
}
