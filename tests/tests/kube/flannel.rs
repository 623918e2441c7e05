//! The fabric beside flannel, whose VXLAN is the cluster's own overlay: neither disturbs the other.

use balancing_tests::*;
use serde_json::{Value, json};

use crate::{
    fabric_hosts::{ANNOTATION, FRONT, Fabric, NODES, pod_on, policy, tunnel_fabric},
    world::{answered_by, text},
};

/// Our device and our rules.
const OURS: (&str, &str) = ("balancing0", "inet balancing");

/// Starts flannel on every node.
fn overlay(fabric: &Fabric, backend: &Value) -> Vec<Flannel> {
    let start = |(number, name): (usize, &&str)| {
        let pods = format!("10.244.{}.0/24", number + 1);
        Flannel::start(&fabric.world.plane, &fabric.nodes[number], name, &pods, backend)
    };
    NODES.iter().enumerate().map(start).collect()
}

/// A pod of the overlay on each node, with a server at port 80 that says the node's name.
fn pods(fabric: &Fabric) -> Vec<(Sandbox, EchoServer)> {
    let start = |(number, name): (usize, &&str)| {
        let ip = format!("10.244.{}.5", number + 1);
        let pod = fabric.world.plane.run_pod(&pod_on(name, name, &ip));
        let sandbox = fabric.nodes[number].overlay_pod(&pod, &[&ip]);
        let server = EchoServer::start(&sandbox.netns, name, &[address(&format!("{ip}:80"))]);
        (sandbox, server)
    };
    NODES.iter().enumerate().map(start).collect()
}

/// Each pod reaches each other by the overlay.
fn talk(pods: &[(Sandbox, EchoServer)]) {
    for (from, (sandbox, _)) in pods.iter().enumerate() {
        let mut client = sandbox.client();
        for (to, name) in NODES.iter().enumerate().filter(|(to, _)| *to != from) {
            answered_by(&mut client, &format!("10.244.{}.5:80", to + 1), name);
        }
    }
}

/// What the nodes have of flannel or of the fabric, once it is whole: entries for as many peers, and rules.
fn states(fabric: &Fabric, of: (&str, &str), peers: usize) -> Vec<String> {
    let state = |node: &Node| tunnel_state(node.host(), of);
    eventually(|| {
        let states: Vec<_> = fabric.nodes.iter().map(state).collect();
        let is_whole = |state: &String| state.matches("lladdr").count() == peers && state.contains("chain");
        if states.iter().all(is_whole) { Ok(states) } else { Err(format!("{states:#?}")) }
    })
}

fn flannels(fabric: &Fabric) -> Vec<String> {
    states(fabric, Flannel::STATE, NODES.len() - 1)
}

fn reached(client: &mut Client) {
    eventually(|| client.ask_tcp(address(FRONT)).map_err(|error| error.to_string()));
}

/// The fabric's way from outside into a pod, its own state, and flannel's through restarts of both.
fn both_work(backend: &Value) {
    if !require_kernel() {
        return;
    }
    let mut fabric = Fabric::start();
    fabric.start_agents();
    let mut overlay = overlay(&fabric, backend);
    let pods = pods(&fabric);
    talk(&pods);
    let before = flannels(&fabric);
    // The fabric comes about.
    let tunnels = fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
    let host = fabric.permit();
    for name in NODES {
        fabric.proxy_of(name);
    }
    fabric.world.wait_condition(&host, "Joined", ("True", "Joined"), "");
    fabric.world.put(&policy());
    let mut outside = fabric.outside.client();
    reached(&mut outside);
    talk(&pods);
    assert_eq!(flannels(&fabric), before);
    // Both start anew.
    let ours = |fabric: &Fabric| states(fabric, OURS, NODES.len());
    let made = ours(&fabric);
    overlay.iter_mut().for_each(Flannel::restart);
    assert_eq!(ours(&fabric), made);
    for node in &mut fabric.nodes {
        node.agent().kill();
        node.start();
    }
    assert_eq!(flannels(&fabric), before);
    talk(&pods);
    reached(&mut outside);
    // The fabric goes.
    fabric.world.delete(&tunnels);
    let devices = |node: &Node| node.host().ip(&["-br", "link"]);
    eventually(|| match fabric.nodes.iter().map(devices).find(|devices| devices.contains("balancing")) {
        Some(left) => Err(left),
        None => Ok(()),
    });
    assert_eq!(flannels(&fabric), before);
    talk(&pods);
}

#[test]
fn neither_disturbs_the_other() {
    both_work(&json!({}));
}

#[test]
fn both_share_a_port_when_the_vni_differs() {
    both_work(&json!({"Port": 7710}));
}

#[test]
fn with_vni_and_port_of_flannel_ours_says_so_and_stays_out() {
    if !require_kernel() {
        return;
    }
    let mut fabric = Fabric::start();
    fabric.start_agents();
    let _overlay = overlay(&fabric, &json!({"VNI": 1, "Port": 7710}));
    let pods = pods(&fabric);
    talk(&pods);
    let before = flannels(&fabric);
    let same = tunnel_fabric("10.211.0.0/24").with("/spec/vxlan", json!({"vni": 1, "port": 7710}));
    fabric.world.put(&same);
    for node in &fabric.nodes {
        node.wait_view(|view| {
            let told = "device flannel.1 has VNI 1 on port 7710 already";
            !view.ready && view.problems.iter().any(|problem| problem.contains(told))
        });
        assert!(!node.host().ip(&["-br", "link"]).contains("balancing"), "ours stays out");
    }
    for name in NODES {
        assert_eq!(text(&fabric.node(name), ANNOTATION), "", "nobody is sent there");
    }
    assert_eq!(flannels(&fabric), before);
    talk(&pods);
}
