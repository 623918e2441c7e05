//! The nodeProxy fabric with real agents that work on directories: three nodes and a host outside, each with a network of its own, and
//! pods that only their node reaches.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use balancing_tests::*;
use serde_json::json;

/// The address that clients dial; it exists nowhere.
const FRONT: &str = "10.99.0.1:80";
const NAMES: [&str; 3] = ["n1", "n2", "n3"];
const SOON: Duration = Duration::from_secs(25);

/// Three nodes and a host outside with one TunnelFabric.
struct World {
    _underlay: Underlay,
    nodes: Vec<Node>,
    outside: Node,
}

fn fabric() -> Object {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "TunnelFabric",
        "metadata": {"name": "main"},
        "spec": {"ipv4Pool": "10.211.0.0/24", "ipv6Pool": "fd11::/64", "underlay": {"interfaces": ["under*"]}},
    })
    .into()
}

/// A member whose tunnel addresses end with a number, in the network of that number.
fn member(kind: &str, name: &str, number: u8) -> Object {
    let [ipv4, ipv6] = Underlay::addresses(number, 2);
    let prefix = if kind == "Node" { "node" } else { "host" };
    json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "TunnelNode",
        "metadata": {"name": format!("{prefix}.{name}")},
        "spec": {
            "fabric": "main", "kind": kind, "name": name, "uid": "files", "underlay": {"ipv4": ipv4, "ipv6": ipv6},
            "port": 7710, "mac": format!("66:00:00:00:00:0{number}"),
            "addresses": [format!("10.211.0.1{number}"), format!("fd11::1{number}")], "mtu": 1450,
        },
    })
    .into()
}

fn external_host() -> Object {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "ExternalHost",
        "metadata": {"name": "outside"},
        "spec": {"fabric": "main", "user": "outside", "underlayCIDRs": ["192.168.4.0/24"]},
    })
    .into()
}

fn node(name: &str, number: u8) -> Object {
    Object::node(name, &format!("192.168.{number}.2"))
        .annotated("balancing.elf.io/nodeProxyIpv4", &format!("10.211.0.1{number}"))
        .annotated("balancing.elf.io/nodeProxyIpv6", &format!("fd11::1{number}"))
}

/// Connections to [`FRONT`] end at port 80 of the pods of an app, through port 20080 of their nodes.
fn policy() -> Object {
    Object::balancing("proxied", "10.99.0.1", 80, "web")
        .with("/spec/backend/serviceEndpoint/redirectMode", "nodeProxy")
        .with("/spec/backend/serviceEndpoint/toPorts/0/port", 20080)
        .with("/spec/backend/serviceEndpoint/toPorts/0/targetPort", 80)
}

fn pod_on(node: &str, name: &str, address: &str) -> Object {
    Object::pod(name, "web", &[address]).with("/spec/nodeName", node)
}

impl World {
    fn new(topic: &str) -> Self {
        let underlay = Underlay::new();
        let nodes: Vec<_> = NAMES.iter().map(|name| Node::named(topic, name, &[])).collect();
        let outside = Node::named(topic, "outside", &["--role", "external"]);
        let world = Self { _underlay: underlay, nodes, outside };
        for host in world.hosts() {
            world._underlay.join(host.host());
        }
        world.apply(&fabric());
        world.apply(&external_host());
        for (name, number) in NAMES.iter().zip(1..) {
            world.apply(&node(name, number));
            world.apply(&member("Node", name, number));
        }
        world.apply(&member("ExternalHost", "outside", 4));
        world.apply(&policy());
        world
    }

    fn start(mut self) -> Self {
        for host in self.nodes.iter_mut().chain([&mut self.outside]) {
            host.start_until(|_| true);
        }
        for host in self.hosts() {
            host.wait_view(|view| view.ready);
        }
        self
    }

    fn hosts(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().chain([&self.outside])
    }

    /// Tells every agent.
    fn apply(&self, object: &Object) {
        self.hosts().for_each(|host| host.apply(object));
    }
}

/// Who answers a connection to the frontend.
fn answer(client: &mut Client, kind: Kind) -> Result<String, String> {
    let socket = client.open(kind);
    let told = client.connect(socket, address(FRONT)).and_then(|()| client.receive(socket));
    client.close(socket);
    told.map(|message| message.data.trim().to_owned()).map_err(|errno| errno.to_string())
}

fn wait_answer(client: &mut Client, wanted: &str) {
    eventually(|| match answer(client, Kind::Tcp4) {
        Ok(name) if name == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_pod_of_an_overlay_is_reached_from_outside_and_from_other_nodes() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("fabric").start();
    let pod = pod_on("n1", "a", "10.244.1.5");
    let place = world.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
    let _server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
    world.apply(&pod);
    let mut outside = world.outside.client();
    wait_answer(&mut outside, "a");
    // A process of another node, and a pod of it: the way back is the same for both.
    wait_answer(&mut world.nodes[1].client(), "a");
    let other = Object::pod("client", "client", &["10.244.2.7"]).with("/spec/nodeName", "n2");
    let of_other = world.nodes[1].overlay_pod(&other, &["10.244.2.7"]);
    world.apply(&other);
    wait_answer(&mut of_other.client(), "a");
    // On the pod's own node nothing crosses the tunnel.
    wait_answer(&mut world.nodes[0].client(), "a");
    // It moves.
    let moved = pod_on("n3", "b", "10.244.3.9");
    let there = world.nodes[2].overlay_pod(&moved, &["10.244.3.9"]);
    let _other = EchoServer::start(&there.netns, "b", &[address("10.244.3.9:80")]);
    world.apply(&moved);
    world.hosts().for_each(|host| host.delete(&pod));
    wait_answer(&mut outside, "b");
    // Nothing stops with the agents.
    world.nodes[2].agent().kill();
    world.outside.agent().kill();
    assert_eq!(answer(&mut outside, Kind::Tcp4), Ok("b".to_owned()));
    for host in [&mut world.nodes[2], &mut world.outside] {
        host.start();
    }
    assert_eq!(answer(&mut outside, Kind::Tcp4), Ok("b".to_owned()));
}

#[test]
fn a_fabric_that_is_deleted_leaves_nothing() {
    if !require_kernel() {
        return;
    }
    let world = World::new("fabric-gone").start();
    let devices = || world.nodes[0].host().ip(&["-br", "link"]);
    wait_until(SOON, || devices().contains("balancing0"));
    world.hosts().for_each(|host| host.delete(&fabric()));
    wait_until(SOON, || !devices().contains("balancing"));
}
