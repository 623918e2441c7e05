//! A fabric of real agents that work on directories: three nodes and a host outside, each with a network of its own, and pods that only
//! their node reaches.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use serde_json::json;

use crate::{Client, Kind, Node, Object, Underlay, address, eventually};

/// The address that clients dial; it exists nowhere.
pub const FRONT: &str = "10.99.0.1:80";
/// The nodes.
pub const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// How long something may take.
pub const SOON: Duration = Duration::from_secs(25);

/// Three nodes and a host outside with one TunnelFabric.
pub struct World {
    /// What joins them.
    pub underlay: Underlay,
    /// The nodes, n1 to n3.
    pub nodes: Vec<Node>,
    /// The host outside, in network 4.
    pub outside: Node,
}

/// The TunnelFabric `main`.
#[must_use]
pub fn fabric() -> Object {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "TunnelFabric",
        "metadata": {"name": "main"},
        "spec": {"ipv4Pool": "10.211.0.0/24", "ipv6Pool": "fd11::/64", "underlay": {"interfaces": ["under*"]}},
    })
    .into()
}

/// A member whose tunnel addresses end with a number, in the network of that number.
pub fn member(kind: &str, name: &str, number: u8) -> Object {
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

/// The permission of the host outside.
#[must_use]
pub fn external_host() -> Object {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "ExternalHost",
        "metadata": {"name": "outside"},
        "spec": {"fabric": "main", "user": "outside", "underlayCIDRs": ["192.168.4.0/24", "fd00:4::/64"]},
    })
    .into()
}

/// A Node with the proxy addresses that its agent would write.
#[must_use]
pub fn node(name: &str, number: u8) -> Object {
    Object::node(name, &format!("192.168.{number}.2"))
        .annotated("balancing.elf.io/nodeProxyIpv4", &format!("10.211.0.1{number}"))
        .annotated("balancing.elf.io/nodeProxyIpv6", &format!("fd11::1{number}"))
}

/// Connections to [`FRONT`] end at port 80 of the pods of an app, through port 20080 of their nodes.
pub fn policy() -> Object {
    Object::balancing("proxied", "10.99.0.1", 80, "web")
        .with("/spec/backend/serviceEndpoint/redirectMode", "nodeProxy")
        .with("/spec/backend/serviceEndpoint/toPorts/0/port", 20080)
        .with("/spec/backend/serviceEndpoint/toPorts/0/targetPort", 80)
}

/// A pod of the policy on a node.
#[must_use]
pub fn pod_on(node: &str, name: &str, address: &str) -> Object {
    Object::pod(name, "web", &[address]).with("/spec/nodeName", node)
}

impl World {
    /// Hosts whose agents have not started.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let underlay = Underlay::new();
        let nodes: Vec<_> = NAMES.iter().map(|name| Node::named(topic, name, &[])).collect();
        let outside = Node::named(topic, "outside", &["--role", "external"]);
        for variable in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            outside.host().sysctl(variable, "0");
        }
        let world = Self { underlay, nodes, outside };
        for host in world.hosts() {
            world.underlay.join(host.host());
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

    /// Starts every agent and waits until all are ready.
    #[must_use]
    pub fn start(self) -> Self {
        let world = self.start_all();
        for host in world.hosts() {
            host.wait_view(|view| view.ready);
        }
        world
    }

    /// Starts every agent.
    #[must_use]
    pub fn start_all(mut self) -> Self {
        for host in self.nodes.iter_mut().chain([&mut self.outside]) {
            host.start_until(|_| true);
        }
        self
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().chain([&self.outside])
    }

    /// Tells every agent.
    pub fn apply(&self, object: &Object) {
        self.hosts().for_each(|host| host.apply(object));
    }
}

/// Who answers a connection to the frontend.
pub fn answer(client: &mut Client, kind: Kind) -> Result<String, String> {
    let socket = client.open(kind);
    let told = client.connect(socket, address(FRONT)).and_then(|()| client.receive(socket));
    client.close(socket);
    told.map(|message| message.data.trim().to_owned()).map_err(|errno| errno.to_string())
}

/// Waits until that one answers a connection to the frontend.
#[track_caller]
pub fn wait_answer(client: &mut Client, wanted: &str) {
    eventually(|| match answer(client, Kind::Tcp4) {
        Ok(name) if name == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// The tunnel of a host, as `balancingctl fabric` tells it.
pub fn told(host: &Node) -> serde_json::Value {
    host.ctl_json(&["fabric"])
}

/// Runs a program in the network of a host; what it prints.
pub fn at(host: &Node, command: &str) -> String {
    let mut words = command.split(' ');
    let mut program = std::process::Command::new(words.next().unwrap());
    let output = host.host().run(|| program.args(words).output()).unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a node lets in and where it sends: its filter's sets and its forwarding entries.
pub fn admits(node: &Node) -> String {
    at(node, "nft list table inet balancing") + &at(node, "bridge fdb show dev balancing0")
}

/// How [`member`] number `n` shows in [`admits`].
pub fn shown(n: u8) -> [String; 2] {
    [format!("192.168.{n}.2"), format!("66:00:00:00:00:0{n}")]
}

/// Waits until a node lets [`member`] number `n` in and sends there, or neither.
#[track_caller]
pub fn wait_admitted(node: &Node, n: u8, wanted: bool) {
    eventually(|| {
        let all = admits(node);
        let found = shown(n).map(|text| all.contains(&text));
        if found == [wanted; 2] { Ok(()) } else { Err(format!("{n} is {found:?}: {all}")) }
    });
}
