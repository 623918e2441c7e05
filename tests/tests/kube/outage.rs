//! The API server away, slow to come back, forgetful; CRDs that come late.

use std::{fs, process::Command, time::Duration};

use balancing_tests::*;

use crate::world::{World, answered_by};

const FRONTEND: &str = "169.254.0.10:80";
/// Longest wait between two tries of the agent, and far more.
const RECOVERY: Duration = Duration::from_secs(120);

struct Running {
    world: World,
    node: Node,
    client: Client,
    _servers: [EchoServer; 4],
}

/// A node that redirects to a pod.
fn running() -> Running {
    let world = World::start();
    let node = world.started_node();
    let servers = [
        ("original", FRONTEND),
        ("first", "10.1.0.1:80"),
        ("second", "10.1.0.2:80"),
        ("late", "169.254.0.11:80"),
    ];
    let servers = servers.map(|(name, at)| node.serve(name, &[at]));
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    let policy = world.put(&Object::local_redirect("p", "169.254.0.10", 80, "web"));
    let mut client = node.client();
    answered_by(&mut client, FRONTEND, "first");
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
    Running { world, node, client, _servers: servers }
}

#[track_caller]
fn recovers(client: &mut Client, at: &str, wanted: &str) {
    eventually_within(RECOVERY, || match client.ask_tcp(address(at)) {
        Ok(name) if name == wanted => Ok(()),
        other => Err(format!("{at} is answered by {other:?}, not {wanted}")),
    });
}

#[test]
fn nothing_changes_while_the_api_server_is_away() {
    if !require_kernel() {
        return;
    }
    let Running { mut world, mut node, mut client, _servers } = running();
    let mut churning = node.client();
    churning.start_churn(&Churn::to(Kind::Tcp4, address(FRONTEND)));
    world.plane.stop_api_server();
    node.wait_view(|view| view.source.problems.iter().any(|problem| problem.contains("not reachable")));
    assert!(node.view().unwrap().source.synced, "the last known state stays");
    // Not even an agent that starts now forgets what is in the kernel.
    node.agent().kill();
    node.start_until(|view| !view.source.synced);
    assert_eq!(client.ask_tcp(address(FRONTEND)), Ok("first".to_owned()));
    assert!(!node.view().unwrap().ready, "an agent that has not seen the cluster is not ready");
    world.plane.start_api_server();
    eventually_within(RECOVERY, || match node.view() {
        Ok(view) if view.ready => Ok(()),
        other => Err(format!("{other:#?}")),
    });
    let report = churning.stop_churn();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["first"], "{:?}", report.peers);
    world.plane.set_ready("default", "web", false);
    answered_by(&mut client, FRONTEND, "original");
}

/// The lists come one after the other. What half of them say is no reason to touch what works: a policy whose pods
/// are not listed yet has none, and would reject.
#[test]
fn a_restart_interrupts_nothing() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut node = world.started_node();
    let _servers = [node.serve("web", &["10.1.0.1:80"]), node.serve("other", &["10.1.0.2:80"])];
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    world.put(&Object::balancing("pods", "169.254.0.10", 80, "web"));
    world.put(&Object::local_redirect("first", "169.254.0.11", 80, "web"));
    world.put(&Object::balancing_to("second", "169.254.0.11", 80, &["10.1.0.2"]));
    let mut clients = ["169.254.0.10:80", "169.254.0.11:80"].map(|at| {
        let mut client = node.client();
        answered_by(&mut client, at, "web");
        let pause = Some(Duration::from_micros(200));
        client.start_churn(&Churn { pause, ..Churn::to(Kind::Tcp4, address(at)) });
        client
    });
    for _ in 0..5 {
        node.agent().kill();
        node.start();
    }
    for report in clients.each_mut().map(Client::stop_churn) {
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["web"], "{:?}", report.peers);
    }
}

#[test]
fn what_was_deleted_during_an_outage_goes_and_what_came_comes() {
    if !require_kernel() {
        return;
    }
    let Running { mut world, node, mut client, _servers } = running();
    // The agent is cut off, the API server is not: its link to the node is down.
    node.host().ip(&["link", "set", "cluster0", "down"]);
    world.delete(&Object::pod("web", "web", &[]));
    world.plane.run_pod(&Object::pod("other", "web", &["10.1.0.2"]));
    assert_eq!(client.ask_tcp(address(FRONTEND)), Ok("first".to_owned()));
    // The watches cannot be resumed: everything must be listed again.
    world.plane.expire_watches();
    node.host().ip(&["link", "set", "cluster0", "up"]);
    // The way to the API server went with its device.
    world.plane.route(node.host());
    eventually_within(Duration::from_secs(150), || match client.ask_tcp(address(FRONTEND)) {
        Ok(name) if name == "second" => Ok(()),
        other => Err(format!("answered by {other:?}")),
    });
}

#[test]
fn expired_watches_are_listed_again() {
    if !require_kernel() {
        return;
    }
    let Running { mut world, mut node, mut client, _servers } = running();
    world.plane.expire_watches();
    world.delete(&Object::pod("web", "web", &[]));
    recovers(&mut client, FRONTEND, "original");
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.2"]));
    recovers(&mut client, FRONTEND, "second");
    world.put(&Object::local_redirect("late", "169.254.0.11", 80, "web"));
    recovers(&mut client, "169.254.0.11:80", "second");
    assert!(!node.agent().log().contains("panicked"));
}

#[test]
fn crds_that_are_missing_at_the_start() {
    if !require_kernel() {
        return;
    }
    let world = World::without_crds(ControlPlane::start());
    let mut node = world.node("n1", &[], "192.0.2.1");
    node.start_until(|view| !view.source.problems.is_empty());
    let view = node.wait_view(|view| view.source.problems.iter().any(|p| p.contains("balancing-agent crds")));
    assert!(!view.ready && !view.source.synced, "{view:#?}");
    world.plane.install_crds();
    eventually_within(RECOVERY, || match node.view() {
        Ok(view) if view.ready && view.source.problems.is_empty() => Ok(()),
        other => Err(format!("{other:#?}")),
    });
    let _servers = [node.serve("web", &["10.1.0.1:80"])];
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    world.put(&Object::local_redirect("p", "169.254.0.10", 80, "web"));
    answered_by(&mut node.client(), FRONTEND, "web");
}

#[test]
fn credentials_that_cannot_be_used() {
    if !require_kernel() {
        return;
    }
    let files = TempDir::new("kubeconfig");
    let path = files.path().join("config");
    for (text, wanted) in [(None, "No such file"), (Some("{}"), "current"), (Some(": :"), "kubeconfig")] {
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        let ended = Command::new(program("balancing-agent"))
            .args(["--node-name", "n1", "--kubeconfig", path.to_str().unwrap()])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{error}");
        assert!(error.contains(path.to_str().unwrap()) && error.contains(wanted), "{error}");
    }
}
