//! Whoever may edit a Service that a policy names claims nobody else's address by that.

use balancing_tests::*;
use serde_json::json;

use crate::world::{NAMESPACE, World, answered_by, service};

/// Cluster DNS, the API server's Service, the own node, another node.
const VICTIMS: [&str; 4] = ["10.96.0.10", "10.96.0.1", "192.0.2.1", "192.0.2.2"];
/// Addresses of nobody.
const FREE: &str = "203.0.113.7";
const FREE_TOO: &str = "10.96.0.77";

/// A policy over Service `web`, whose editor is the attacker, and a client on node `n1`.
struct Stage {
    world: World,
    policy: Object,
    node: Node,
    client: Client,
    _servers: [EchoServer; 2],
}

impl Stage {
    fn start() -> Self {
        let world = World::start();
        world.plane.add_node("n2", &[], "192.0.2.2");
        let mut node = world.node("n1", &[], "192.0.2.1");
        let targets: Vec<String> =
            VICTIMS.iter().chain([&FREE, &FREE_TOO]).map(|ip| format!("{ip}:80")).collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let servers = [node.serve("stolen", &["10.1.0.1:80"]), node.serve("dialled", &targets)];
        world.put(&service("kube-dns", "10.96.0.10", &[("http", 80)]));
        world.put(&web(&[FREE]));
        let policy = world.put(&Object::balancing_to("p", "::", 80, &["10.1.0.1"]).for_service("web"));
        node.start();
        let mut client = node.client();
        answered_by(&mut client, "203.0.113.7:80", "stolen");
        Self { world, policy, node, client, _servers: servers }
    }

    #[track_caller]
    fn wait_told(&self, text: &str) {
        self.world.wait_condition(&self.policy, "ResolvedRefs", ("True", "ResolvedRefs"), text);
    }
}

fn web(external: &[&str]) -> Object {
    service("web", "10.96.0.20", &[("http", 80)]).with("/spec/externalIPs", json!(external))
}

/// Not even for the moment in which the controller has not heard of the edit.
#[test]
fn the_editor_of_a_service_steals_nothing() {
    if !require_kernel() {
        return;
    }
    let mut stage = Stage::start();
    let mut thieves: Vec<Client> = VICTIMS
        .iter()
        .map(|victim| {
            let mut client = stage.node.client();
            client.start_churn(&Churn::to(Kind::Tcp4, address(&format!("{victim}:80"))));
            client
        })
        .collect();
    for round in 0..5 {
        stage.world.put(&web(&[FREE]));
        stage.world.put(&web(&[&[FREE, FREE_TOO][..], &VICTIMS].concat()));
        answered_by(&mut stage.client, "10.96.0.77:80", "stolen");
        assert_eq!(stage.client.ask_tcp(address("203.0.113.7:80")), Ok("stolen".to_owned()), "{round}");
    }
    for why in [
        "external address 10.96.0.10 of Service default/web is left alone: it is the ClusterIP of default/kube-dns",
        "external address 10.96.0.1 of Service default/web is left alone: it is the ClusterIP of default/kubernetes",
        "external address 192.0.2.1 of Service default/web is left alone: it is an address of Node n1",
        "external address 192.0.2.2 of Service default/web is left alone: it is an address of Node n2",
    ] {
        stage.wait_told(why);
    }
    for (client, victim) in thieves.iter_mut().zip(VICTIMS) {
        let report = client.stop_churn();
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["dialled"], "{victim}");
    }
    let told = stage.node.ctl_json(&["explain", "10.96.0.10:80"]);
    let why = told["losers"][0]["why"].as_str().unwrap();
    assert!(why.contains("is left alone: it is the ClusterIP of default/kube-dns"), "{told}");
    let told = stage.node.ctl_json(&["explain", "192.0.2.2:80"]);
    assert!(told["losers"][0]["why"].as_str().unwrap().contains("controller has not approved it"), "{told}");
}

#[test]
fn an_address_that_gets_an_owner_is_given_up() {
    if !require_kernel() {
        return;
    }
    let mut stage = Stage::start();
    stage.world.put(&web(&[FREE, FREE_TOO]));
    answered_by(&mut stage.client, "10.96.0.77:80", "stolen");
    let owner = stage.world.put(&service("owner", FREE_TOO, &[("http", 80)]));
    answered_by(&mut stage.client, "10.96.0.77:80", "dialled");
    stage.wait_told("it is the ClusterIP of default/owner");
    stage.world.plane.add_node("n3", &[], FREE);
    answered_by(&mut stage.client, "203.0.113.7:80", "dialled");
    stage.wait_told("it is an address of Node n3");
    stage.world.delete(&owner);
    stage.world.delete(&Object::named("v1", "Node", "", "n3"));
    answered_by(&mut stage.client, "10.96.0.77:80", "stolen");
    answered_by(&mut stage.client, "203.0.113.7:80", "stolen");
}

/// Without a controller nothing new is claimed, and nothing is given up, however often the agent starts.
#[test]
fn what_was_approved_stays_while_no_controller_answers() {
    if !require_kernel() {
        return;
    }
    let mut stage = Stage::start();
    stage.world.controller.borrow_mut().kill();
    stage.world.put(&web(&[FREE, FREE_TOO, "192.0.2.2"]));
    stage
        .node
        .wait_policy("p", |view| view.message.contains("10.96.0.77 of Service default/web is left alone"));
    // As an agent meets it that was upgraded before the controller.
    let slices = stage.world.plane.client().list("discovery.k8s.io/v1", "EndpointSlice").unwrap();
    let slice = slices.into_iter().find(|slice| slice.namespace() == NAMESPACE).unwrap();
    let name = slice.name();
    stage.world.delete(&Object::named("discovery.k8s.io/v1", "EndpointSlice", NAMESPACE, name));
    stage.node.agent().kill();
    stage.node.start();
    stage.node.wait_policy("p", |view| view.reason == "Pending");
    for (at, who) in [("203.0.113.7:80", "stolen"), ("10.96.0.77:80", "dialled"), ("192.0.2.2:80", "dialled")]
    {
        assert_eq!(stage.client.ask_tcp(address(at)), Ok(who.to_owned()), "{at}");
    }
    stage.world.controller.borrow_mut().start();
    answered_by(&mut stage.client, "10.96.0.77:80", "stolen");
    assert_eq!(stage.client.ask_tcp(address("192.0.2.2:80")), Ok("dialled".to_owned()));
}
