//! A right or a CRD is missing at the start: what can be known completely is in force, the rest waits and has a name.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use balancing_core::view::AgentView;
use balancing_tests::*;
use serde_json::json;

use crate::world::{World, answered_by, condition_of, repository, service};

/// Longest wait between two tries of the agent, and far more.
const RECOVERY: Duration = Duration::from_secs(120);
/// Roles, and where they are defined.
const AGENT: (&str, &str) = ("balancing-agent", "node.yaml");
const CONTROLLER: (&str, &str) = ("balancing-controller", "controller.yaml");

/// Gives a role its rights, but for those on some kinds.
fn deny(world: &World, (role, file): (&str, &str), kinds: &[&str]) {
    world.plane.apply_file(&repository().join("install/rbac").join(file));
    let role = Object::named("rbac.authorization.k8s.io/v1", "ClusterRole", "", role);
    let mut rules = world.plane.client().get(&role).unwrap().at("/rules").clone();
    for rule in rules.as_array_mut().unwrap() {
        let resources = rule["resources"].as_array_mut().unwrap();
        resources.retain(|kind| !kinds.iter().any(|denied| kind == denied));
    }
    rules
        .as_array_mut()
        .unwrap()
        .retain(|rule| rule["resources"].as_array().is_some_and(|kinds| !kinds.is_empty()));
    world.plane.client().patch(&role, "", json!({"rules": rules})).unwrap();
}

/// The same for the agents; it is in force afterwards.
fn deny_agent(world: &World, kubeconfig: &Path, kinds: &[&str]) {
    deny(world, AGENT, kinds);
    let agent = world.plane.client_of(kubeconfig);
    for (kind, plural) in [("Service", "services"), ("Pod", "pods")] {
        eventually(|| match agent.list("v1", kind) {
            result if result.is_ok() != kinds.contains(&plural) => Ok(()),
            result => Err(format!("{kind}: {:?}", result.map(|_| "may be listed"))),
        });
    }
}

/// What is lacking, as the agent says it.
fn lacking(view: &AgentView) -> Vec<&str> {
    view.problems
        .iter()
        .filter_map(|problem| problem.split_once(" could not be listed yet"))
        .map(|(kind, _)| kind)
        .collect()
}

#[track_caller]
fn becomes_ready(node: &Node) {
    eventually_within(RECOVERY, || match node.view() {
        Ok(view) if view.ready && lacking(&view).is_empty() && view.source.synced => Ok(()),
        other => Err(format!("{other:#?}")),
    });
}

/// The layers in the kernel: frontend, backends.
fn layers(node: &Node) -> Vec<String> {
    let layers = node.layers();
    let mut shown: Vec<String> = layers
        .iter()
        .map(|view| {
            let backends: Vec<_> =
                view.backends.iter().map(|(_, backend)| backend.address.to_string()).collect();
            format!("{} {} {}", view.key, view.layer_number, backends.join(" "))
        })
        .collect();
    shown.sort();
    shown
}

#[test]
fn a_crd_is_missing_at_the_start() {
    if !require_kernel() {
        return;
    }
    let world = World::without_crds(ControlPlane::start());
    world.plane.apply_file(&repository().join("install/crds/balancingpolicies.yaml"));
    let mut node = world.node("n1", &[], "192.0.2.1");
    let _servers = [node.serve("other", &["10.1.0.2:80"]), node.serve("web", &["10.1.0.1:80"])];
    node.start_until(|view| lacking(view) == ["LocalRedirectPolicies"]);
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    eventually(|| {
        world
            .plane
            .client()
            .put(&Object::balancing_to("b", "169.254.0.10", 80, &["10.1.0.2"]))
            .map_err(|e| e.to_string())
    });
    let mut client = node.client();
    answered_by(&mut client, "169.254.0.10:80", "other");
    let view = node.view().unwrap();
    assert!(!view.ready && !view.source.synced, "{view:#?}");
    assert!(view.source.problems.iter().any(|p| p.contains("balancing-agent crds")), "{view:#?}");
    let (status, text) = node.http(Node::HTTP, "/readyz").unwrap();
    assert_eq!(status, 503, "{text}");
    assert!(
        text.contains("LocalRedirectPolicies could not be listed yet") && text.contains("crds"),
        "{text}"
    );
    world.plane.install_crds();
    becomes_ready(&node);
    world.put(&Object::local_redirect("l", "169.254.0.11", 80, "web"));
    world.put(&Object::balancing("pods", "169.254.0.12", 80, "web"));
    answered_by(&mut client, "169.254.0.11:80", "web");
    answered_by(&mut client, "169.254.0.12:80", "web");
    answered_by(&mut client, "169.254.0.10:80", "other");
}

#[test]
fn waiting_for_a_crd_costs_nothing() {
    /// Longer than any period of the agent.
    const WATCH: Duration = Duration::from_secs(40);
    if !require_kernel() {
        return;
    }
    let world = World::without_crds(ControlPlane::start());
    let mut node = world.node("n1", &[], "192.0.2.1");
    node.start_until(|view| lacking(view).len() == 2);
    std::thread::sleep(Duration::from_secs(10));
    assert_waiting_costs_nothing(&[("CRDs that are missing", node.agent().pid())], WATCH, 1);
}

#[test]
fn rights_are_missing_at_the_start() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut node = world.node("n1", &[], "192.0.2.1");
    let kubeconfig = world.kubeconfig("n1");
    deny_agent(&world, &kubeconfig, &["services", "pods"]);
    let _servers = [
        node.serve("other", &["10.1.0.2:80"]),
        node.serve("web", &["10.1.0.1:80"]),
        node.serve("dialled", &["10.96.0.20:80", "169.254.0.11:80"]),
    ];
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    world.put(&service("s", "10.96.0.20", &[("", 80)]));
    world.put(&Object::balancing_to("b", "169.254.0.10", 80, &["10.1.0.2"]));
    world.put(&Object::balancing_to("of-service", "169.254.0.1", 80, &["10.1.0.2"]).for_service("s"));
    world.put(&Object::local_redirect("l", "169.254.0.11", 80, "web"));
    node.start_until(|view| lacking(view) == ["Services", "Pods"]);
    let mut client = node.client();
    answered_by(&mut client, "169.254.0.10:80", "other");
    for (policy, kind) in [("of-service", "Services"), ("l", "Pods")] {
        let view = node.wait_policy(policy, |view| view.reason == "Pending");
        assert!(view.message.contains(&format!("waits for the {kind}")), "{view:#?}");
    }
    assert_eq!(client.ask_tcp(address("10.96.0.20:80")), Ok("dialled".to_owned()));
    assert_eq!(client.ask_tcp(address("169.254.0.11:80")), Ok("dialled".to_owned()));
    let status = String::from_utf8(node.ctl(&["status"]).stdout).unwrap();
    assert!(status.contains("not allowed to watch services"), "{status}");
    assert!(status.contains("Problem: Services could not be listed yet"), "{status}");
    let doctor = node.ctl(&["doctor"]);
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1), "{found}");
    assert!(
        found.contains("PROBLEM  source") && found.contains("allow the agent list and watch on pods"),
        "{found}"
    );
    deny_agent(&world, &kubeconfig, &[]);
    becomes_ready(&node);
    answered_by(&mut client, "10.96.0.20:80", "other");
    answered_by(&mut client, "169.254.0.11:80", "web");
    eventually(|| {
        let doctor = node.ctl(&["doctor"]);
        let found = String::from_utf8(doctor.stdout).unwrap();
        let heard = found.contains("said something") && doctor.status.success();
        if heard { Ok(()) } else { Err(found) }
    });
}

/// A cluster whose agent has programmed one policy of each sort, and a pod with links.
struct Running {
    world: World,
    node: Node,
    kubeconfig: PathBuf,
    sandbox: Sandbox,
    _servers: [EchoServer; 3],
}

fn running() -> Running {
    let world = World::start();
    let mut node = world.node("n1", &[], "192.0.2.1");
    let kubeconfig = world.kubeconfig("n1");
    let servers = [
        node.serve("other", &["10.1.0.2:80"]),
        node.serve("web", &["10.1.0.1:80"]),
        node.serve("third", &["10.1.0.3:80"]),
    ];
    let pod = world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    let sandbox = node.sandbox(&pod);
    world.put(&service("s", "10.96.0.20", &[("", 80)]));
    world.put(&Object::balancing_to("own", "169.254.0.10", 80, &["10.1.0.2"]));
    world.put(&Object::balancing_to("of-service", "169.254.0.1", 80, &["10.1.0.2"]).for_service("s"));
    world.put(&Object::balancing("pods", "169.254.0.12", 80, "web"));
    world.put(&Object::local_redirect("l", "169.254.0.11", 80, "web"));
    node.start();
    eventually(|| if layers(&node).len() == 4 { Ok(()) } else { Err(format!("{:?}", layers(&node))) });
    Running { world, node, kubeconfig, sandbox, _servers: servers }
}

#[test]
fn an_agent_that_lost_its_rights_keeps_what_it_cannot_judge() {
    if !require_kernel() {
        return;
    }
    let Running { world, mut node, kubeconfig, sandbox, _servers } = running();
    let before = layers(&node);
    let targets = [("10.96.0.20:80", "other"), ("169.254.0.11:80", "web"), ("169.254.0.12:80", "web")];
    let mut clients = targets.map(|(at, name)| {
        let mut client = sandbox.client();
        answered_by(&mut client, at, name);
        let pause = Some(Duration::from_micros(200));
        client.start_churn(&Churn { pause, ..Churn::to(Kind::Tcp4, address(at)) });
        client
    });
    deny_agent(&world, &kubeconfig, &["localredirectpolicies", "services", "pods"]);
    node.agent().kill();
    node.start_until(|view| lacking(view) == ["LocalRedirectPolicies", "Services", "Pods"]);
    eventually(|| if layers(&node) == before { Ok(()) } else { Err(format!("{:?}", layers(&node))) });
    // What is known goes on: a deletion, and a policy beside one that nobody sees.
    world.delete(&Object::balancing_to("own", "169.254.0.10", 80, &[]));
    world.put(&Object::balancing_to("beside", "169.254.0.11", 80, &["10.1.0.3"]));
    world.delete(&Object::local_redirect("l", "169.254.0.11", 80, "web"));
    let beside = ["169.254.0.11:80/TCP 0 10.1.0.1", "169.254.0.11:80/TCP 1 10.1.0.3"];
    eventually(|| {
        let now = layers(&node);
        let own = now.iter().any(|layer| layer.starts_with("169.254.0.10:80"));
        let both = beside.iter().all(|wanted| now.iter().any(|layer| layer == wanted));
        if both && !own && now.len() == 4 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(node.layers().len(), 4);
    for (client, (at, name)) in clients.iter_mut().zip(targets) {
        let report = client.stop_churn();
        assert!(report.errors.is_empty(), "{at}: {:?}", report.errors);
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), [name], "{at}: {:?}", report.peers);
    }
    deny_agent(&world, &kubeconfig, &[]);
    becomes_ready(&node);
    answered_by(&mut clients[1], "169.254.0.11:80", "third");
    for (client, (at, name)) in clients.iter_mut().zip([targets[0], ("169.254.0.11:80", "third"), targets[2]])
    {
        assert_eq!(client.ask_tcp(address(at)), Ok(name.to_owned()));
    }
}

/// What the controller writes speaks for the whole cluster.
#[test]
fn a_controller_without_a_right_writes_nothing() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.plane.add_node("n1", &[], "192.0.2.1");
    world.controller.borrow_mut().terminate();
    deny(&world, CONTROLLER, &["services"]);
    world.put(&service("s", "10.96.0.20", &[("", 80)]));
    let policy = Object::balancing_to("of-service", "169.254.0.1", 80, &["10.1.0.2"]).for_service("s");
    let policy = world.put(&policy);
    world.controller.borrow_mut().start();
    world.controller.borrow().wait_elected();
    eventually(|| match world.controller.borrow().log() {
        log if log.contains("not allowed to watch services") => Ok(()),
        log => Err(log),
    });
    assert!(world.policy("BalancingPolicy", "of-service").at("/status").is_null());
    deny(&world, CONTROLLER, &[]);
    eventually_within(RECOVERY, || {
        match condition_of(&world.policy("BalancingPolicy", "of-service"), "Programmed") {
            Some((status, ..)) if status == "True" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // The object shows the write before its answer reaches the controller, which counts the answer.
    let counted = "balancing_cluster_writes_total{object=\"status\"}";
    eventually(|| match world.controller.borrow().metric(counted) {
        Some(1.0) => Ok(()),
        writes => Err(format!("{writes:?}: {} had another status before", policy.name())),
    });
}

/// New tables begin empty, so they do not replace those of another ABI before everything is known.
#[test]
fn an_upgrade_waits_for_the_rights() {
    if !require_kernel() {
        return;
    }
    let Running { world, mut node, kubeconfig, sandbox, _servers } = running();
    let mut client = sandbox.client();
    answered_by(&mut client, "10.96.0.20:80", "other");
    client.start_churn(&Churn {
        pause: Some(Duration::from_micros(200)),
        ..Churn::to(Kind::Tcp4, address("10.96.0.20:80"))
    });
    deny_agent(&world, &kubeconfig, &["services"]);
    node.agent().kill();
    node.agent().replace("agent_next");
    node.start_until(|view| lacking(view) == ["Services"]);
    eventually(|| match node.http(Node::HTTP, "/readyz") {
        Some((503, text)) if text.contains("another ABI left stays in force") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    deny_agent(&world, &kubeconfig, &[]);
    becomes_ready(&node);
    eventually(|| if layers(&node).len() == 4 { Ok(()) } else { Err(format!("{:?}", layers(&node))) });
    let report = client.stop_churn();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["other"], "{:?}", report.peers);
}
