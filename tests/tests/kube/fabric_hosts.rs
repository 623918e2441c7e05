//! The fabric as it comes about by itself: three nodes and a host outside with agents, each in a network of its own.

use std::path::PathBuf;

use balancing_tests::*;
use serde_json::json;

use crate::world::{NAMESPACE, VERSION, World, answered_by, text};

pub(crate) const FRONT: &str = "10.99.0.1:80";
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];
pub(crate) const ANNOTATION: &str = "/metadata/annotations/balancing.elf.io~1nodeProxyIpv4";

/// A cluster whose nodes lie in networks of their own.
pub(crate) struct Fabric {
    // Agents end before their control plane.
    pub(crate) nodes: Vec<Node>,
    pub(crate) outside: Node,
    pub(crate) underlay: Underlay,
    pub(crate) world: World,
}

/// The MAC that the controller expects of a TunnelNode, as text.
pub(crate) fn mac(fabric: &str, member: &str) -> String {
    balancing_core::membership::mac_of(fabric, member).map(|byte| format!("{byte:02x}")).join(":")
}

pub(crate) fn tunnel_fabric(pool: &str) -> Object {
    Object::named(VERSION, "TunnelFabric", "", "default").with("/spec/ipv4Pool", pool)
}

/// Rights of the ServiceAccount of a host outside.
pub(crate) fn bind_host(world: &World, account: &str) {
    let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]);
    let bindings = [
        ("ClusterRoleBinding", "", "ClusterRole", "balancing-external-host"),
        ("RoleBinding", NAMESPACE, "Role", "balancing-external-host"),
        ("RoleBinding", "default", "Role", "balancing-external-events"),
    ];
    for (kind, namespace, role_kind, role) in bindings {
        let binding = Object::named("rbac.authorization.k8s.io/v1", kind, namespace, account);
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role});
        world.put(&binding.with("/roleRef", role).with("/subjects", subject.clone()));
    }
}

impl Fabric {
    pub(crate) fn start() -> Self {
        Self::start_with(|world| {
            let account = world.plane.service_account_kubeconfig(NAMESPACE, "edge-1");
            bind_host(world, "edge-1");
            account
        })
    }

    /// With the kubeconfig of the host outside from elsewhere.
    pub(crate) fn start_with(kubeconfig: impl FnOnce(&World) -> PathBuf) -> Self {
        Self::start_flagged(|_| Vec::new(), kubeconfig)
    }

    /// The same with more flags for the agents of the nodes, by name.
    pub(crate) fn start_flagged(
        flags: impl Fn(&str) -> Vec<String>,
        kubeconfig: impl FnOnce(&World) -> PathBuf,
    ) -> Self {
        let (world, underlay) = (World::start(), Underlay::new());
        let nodes = NODES.iter().zip(1_u8..).map(|(name, number)| {
            let [address, _] = Underlay::addresses(number, 2);
            let node = world.flagged_node(name, &[], &address.to_string(), &flags(name));
            assert_eq!(underlay.join(node.host()), number);
            node
        });
        let nodes: Vec<_> = nodes.collect();
        let account = kubeconfig(&world);
        let outside = Node::in_cluster(&world.plane, "edge-1", &account, NAMESPACE, &["--role", "external"]);
        underlay.join(outside.host());
        Self { nodes, outside, underlay, world }
    }

    /// Lets the host outside in.
    pub(crate) fn permit(&self) -> Object {
        let host = Object::named(VERSION, "ExternalHost", "", "edge-1").with("/spec/fabric", "default");
        let host = host.with("/spec/serviceAccountName", "edge-1");
        self.world.put(&host.with("/spec/underlayCIDRs", json!(["192.168.4.0/24"])))
    }

    pub(crate) fn start_agents(&mut self) {
        for host in self.nodes.iter_mut().chain([&mut self.outside]) {
            host.start_until(|_| true);
        }
        for host in self.nodes.iter().chain([&self.outside]) {
            host.wait_view(|view| view.ready);
        }
    }

    pub(crate) fn node(&self, name: &str) -> Object {
        self.world.plane.client().get(&Object::named("v1", "Node", "", name)).unwrap()
    }

    /// The proxy address of a node once it has one.
    pub(crate) fn proxy_of(&self, name: &str) -> String {
        eventually(|| match text(&self.node(name), ANNOTATION) {
            "" => Err(format!("{name} has no proxy address")),
            found => Ok(found.to_owned()),
        })
    }
}

pub(crate) fn policy() -> Object {
    Object::balancing("proxied", "10.99.0.1", 80, "web")
        .with("/spec/backend/serviceEndpoint/redirectMode", "nodeProxy")
        .with("/spec/backend/serviceEndpoint/toPorts/0/port", 20080)
        .with("/spec/backend/serviceEndpoint/toPorts/0/targetPort", 80)
}

pub(crate) fn pod_on(node: &str, name: &str, address: &str) -> Object {
    Object::pod(name, "web", &[address]).with("/spec/nodeName", node)
}

#[test]
fn a_fabric_comes_about_by_itself_and_a_host_outside_reaches_a_pod() {
    if !require_kernel() {
        return;
    }
    let mut fabric = Fabric::start();
    fabric.start_agents();
    let devices = |host: &Node| host.host().ip(&["-br", "link"]);
    assert!(fabric.nodes.iter().all(|node| !devices(node).contains("balancing")), "nothing before a fabric");
    fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
    let host = fabric.permit();
    let mut addresses: Vec<_> = NODES.iter().map(|name| fabric.proxy_of(name)).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    fabric.world.wait_condition(&host, "Joined", ("True", "Joined"), "");
    // A pod that only its node reaches.
    let pod = fabric.world.plane.run_pod(&pod_on("n1", "a", "10.244.1.5"));
    let place = fabric.nodes[0].overlay_pod(&pod, &["10.244.1.5"]);
    let _server = EchoServer::start(&place.netns, "a", &[address("10.244.1.5:80")]);
    fabric.world.put(&policy());
    let mut outside = fabric.outside.client();
    answered_by(&mut outside, FRONT, "a");
    answered_by(&mut fabric.nodes[1].client(), FRONT, "a");
    // It moves to another node.
    let moved = fabric.world.plane.run_pod(&pod_on("n3", "b", "10.244.3.9"));
    let there = fabric.nodes[2].overlay_pod(&moved, &["10.244.3.9"]);
    let _other = EchoServer::start(&there.netns, "b", &[address("10.244.3.9:80")]);
    fabric.world.delete(&pod);
    answered_by(&mut outside, FRONT, "b");
}

#[test]
fn an_administrators_proxy_address_wins_and_ours_goes_with_the_fabric() {
    if !require_kernel() {
        return;
    }
    let mut fabric = Fabric::start();
    fabric.start_agents();
    let client = fabric.world.plane.client();
    let given =
        Object::named("v1", "Node", "", "n1").annotated("balancing.elf.io/nodeProxyIpv4", "203.0.113.9");
    client.put(&given).unwrap();
    let tunnels = fabric.world.put(&tunnel_fabric("10.211.0.0/24"));
    assert!(fabric.proxy_of("n2").starts_with("10.211.0."));
    assert_eq!(fabric.proxy_of("n1"), "203.0.113.9");
    eventually(|| match fabric.nodes[0].ctl_json(&["fabric"]) {
        told if told["overridden"] == json!(["balancing.elf.io/nodeProxyIpv4"]) => Ok(()),
        told => Err(format!("{told:#}")),
    });
    fabric.world.delete(&tunnels);
    eventually(|| match text(&fabric.node("n2"), ANNOTATION) {
        "" => Ok(()),
        found => Err(found.to_owned()),
    });
    assert_eq!(fabric.proxy_of("n1"), "203.0.113.9");
}
