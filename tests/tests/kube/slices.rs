//! Selectors over the whole cluster: the controller lists the pods, all agents use the list.

use std::collections::BTreeSet;

use balancing_tests::*;
use serde_json::json;

use crate::world::{NAMESPACE, World, answered_by, text};

const FRONTEND: &str = "169.254.0.10:80";

/// Our EndpointSlices.
fn slices(world: &World) -> Vec<Object> {
    let all = world.plane.client().list("discovery.k8s.io/v1", "EndpointSlice").unwrap();
    let ours = "/metadata/labels/endpointslice.kubernetes.io~1managed-by";
    all.into_iter().filter(|slice| text(slice, ours) == "balancing.elf.io").collect()
}

fn sizes(world: &World) -> Vec<usize> {
    let size = |slice: &Object| slice.at("/endpoints").as_array().map_or(0, Vec::len);
    let mut sizes: Vec<usize> = slices(world).iter().map(size).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn pods_of_every_node_are_reached_from_every_node() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut nodes = [("n1", "a", "192.0.2.1"), ("n2", "b", "192.0.2.2")]
        .map(|(name, zone, ip)| world.node(name, &[("topology.kubernetes.io/zone", zone)], ip));
    nodes.iter_mut().for_each(Node::start);
    world.put(&Object::balancing("p", "169.254.0.10", 80, "web"));
    let _servers: Vec<_> = nodes.iter().map(|node| node.serve("web", &["10.1.0.2:80"])).collect();
    let pod = world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.2"]).with("/spec/nodeName", "n2"));
    world.plane.run_pod(&Object::pod("other", "other", &["10.1.0.3"]));
    for node in &nodes {
        answered_by(&mut node.client(), FRONTEND, "web");
    }
    let [slice] = slices(&world).try_into().unwrap();
    assert_eq!(text(&slice, "/metadata/namespace"), NAMESPACE);
    assert_eq!(text(&slice, "/metadata/ownerReferences/0/kind"), "BalancingPolicy");
    assert_eq!(text(&slice, "/metadata/ownerReferences/0/name"), "p");
    let expected = json!([{
        "addresses": ["10.1.0.2"],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": "n2",
        "zone": "b",
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "web", "uid": pod.uid()},
    }]);
    assert_eq!(*slice.at("/endpoints"), expected);
    assert_eq!(*slice.at("/ports"), json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    // An unready pod stays in the list, where its readiness is kept, and gets no connection.
    world.plane.set_ready("default", "web", false);
    for node in &nodes {
        node.wait_backends("p", 0);
    }
    assert_eq!(slices(&world)[0].at("/endpoints/0/conditions/ready"), &json!(false));
}

#[test]
fn a_hundred_endpoints_a_slice_and_none_when_the_policy_is_gone() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let pods = (0..250u32)
        .map(|n| Object::pod(&format!("web-{n}"), "web", &[&format!("10.1.{}.{}", n / 200, n % 200 + 1)]));
    let pods = world.plane.run_pods(pods);
    let policy = world.put(&Object::balancing("p", "169.254.0.10", 80, "web"));
    node.wait_backends("p", 250);
    assert_eq!(sizes(&world), [50, 100, 100]);
    // Who goes leaves the others where they are, and who comes fills the holes.
    let names = |list: &[Object]| -> BTreeSet<String> {
        list.iter().map(|slice| text(slice, "/metadata/name").to_owned()).collect()
    };
    let before = names(&slices(&world));
    pods[..60].iter().for_each(|pod| world.delete(pod));
    node.wait_backends("p", 190);
    let come = (0..60u32).map(|n| Object::pod(&format!("new-{n}"), "web", &[&format!("10.2.0.{}", n + 1)]));
    world.plane.run_pods(come);
    node.wait_backends("p", 250);
    assert_eq!(names(&slices(&world)), before);
    world.delete(&policy);
    eventually(|| match sizes(&world).as_slice() {
        [] => Ok(()),
        left => Err(format!("slices are left: {left:?}")),
    });
}

/// An agent sees its own Node only: where pods of other nodes are reached is in the slices.
#[test]
fn host_ports_and_node_proxies() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut nodes = [("n1", "192.0.2.1"), ("n2", "192.0.2.2")].map(|(name, ip)| world.node(name, &[], ip));
    nodes.iter_mut().for_each(Node::start);
    let proxy = json!({"metadata": {"annotations": {"balancing.elf.io/nodeProxyIpv4": "192.0.2.102"}}});
    world.plane.client().patch(&Object::named("v1", "Node", "", "n2"), "", proxy).unwrap();
    let ports = json!([{"containerPort": 8080, "hostPort": 30080, "name": "http"}]);
    let pod = Object::pod("web", "web", &["10.1.0.2"])
        .with("/spec/nodeName", "n2")
        .with("/spec/containers", json!([{"name": "main", "image": "none", "ports": ports}]));
    world.plane.run_pod(&pod);
    let through = |name: &str, ip: &str, mode: &str, port: u16| {
        let policy = Object::balancing(name, ip, 80, "web")
            .with("/spec/backend/serviceEndpoint/redirectMode", mode)
            .with("/spec/backend/serviceEndpoint/toPorts", json!([{"port": port}]));
        world.put(&policy);
    };
    through("host", "169.254.0.10", "hostPort", 30080);
    through("closed", "169.254.0.11", "hostPort", 30081);
    through("proxy", "169.254.0.12", "nodeProxy", 30080);
    let node = &nodes[0];
    let _servers =
        [node.serve("n2-host-port", &["192.0.2.2:30080"]), node.serve("n2-proxy", &["192.0.2.102:30080"])];
    let mut client = node.client();
    answered_by(&mut client, "169.254.0.10:80", "n2-host-port");
    answered_by(&mut client, "169.254.0.12:80", "n2-proxy");
    let addresses = |slice: &Object| text(slice, "/endpoints/0/addresses/0").to_owned();
    let listed: BTreeSet<String> = slices(&world).iter().map(addresses).collect();
    assert_eq!(listed, BTreeSet::from(["", "192.0.2.102", "192.0.2.2"].map(str::to_owned)));
    let closed = node.wait_policy("closed", |view| view.message.contains("the policy's status tells why"));
    assert_eq!((closed.backends, closed.frontends.len()), (0, 1), "it refuses connections");
    let named = |name: &str| Object::named("balancing.elf.io/v1beta1", "BalancingPolicy", "", name);
    let why = "left out, no hostPort 30081/TCP declared: default/web";
    world.wait_condition(&named("closed"), "Programmed", ("False", "NoBackends"), why);
    // A ready pod whose node has no proxy address, beside one whose node has.
    let here = world.plane.run_pod(&Object::pod("here", "web", &["10.1.0.1"]).with("/spec/nodeName", "n1"));
    let why = "balancing.elf.io/nodeProxyIpv4, which a TunnelFabric or you write, and its own clients alone reach its pods: n1";
    world.wait_condition(&named("proxy"), "Programmed", ("True", "Programmed"), why);
    // Its own node goes straight to it.
    node.wait_backends("proxy", 2);
    world.delete(&here);
    node.wait_backends("proxy", 1);
    // The address of the node changes.
    let moved = json!({"metadata": {"annotations": {"balancing.elf.io/nodeProxyIpv4": "192.0.2.103"}}});
    world.plane.client().patch(&Object::named("v1", "Node", "", "n2"), "", moved).unwrap();
    let _moved = node.serve("n2-moved", &["192.0.2.103:30080"]);
    answered_by(&mut client, "169.254.0.12:80", "n2-moved");
    let heard = "balancing_watch_events_total{kind=\"Node\"}";
    let (_, metrics) = node.http(Node::METRICS, "/metrics").unwrap();
    assert_eq!(metric(&metrics, heard), Some(0.0), "n1 hears of n2's Node");
}
