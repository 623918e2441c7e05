//! Several agents: node labels, and hosts outside the cluster.

use balancing_tests::*;

use crate::world::{NAMESPACE, World, answered_by};

const FRONTEND: &str = "169.254.0.10:80";

/// Two policies for one frontend, each for other nodes: no conflict, and each node has its own.
#[test]
fn two_agents_with_different_labels() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let zones = [("n1", "a", "192.0.2.1"), ("n2", "b", "192.0.2.2")];
    let mut nodes = zones.map(|(name, zone, ip)| world.node(name, &[("zone", zone)], ip));
    let policies = ["a", "b"].map(|zone| {
        let policy = Object::balancing_to(
            zone,
            "169.254.0.10",
            80,
            &[if zone == "a" { "10.1.0.1" } else { "10.1.0.2" }],
        )
        .with("/spec/config/enableOutCluster", false)
        .with("/spec/config/nodeLabelSelector/matchLabels/zone", zone);
        world.put(&policy)
    });
    let _servers: Vec<_> = nodes
        .iter()
        .flat_map(|node| [node.serve("a", &["10.1.0.1:80"]), node.serve("b", &["10.1.0.2:80"])])
        .collect();
    nodes.iter_mut().for_each(Node::start);
    let mut clients = nodes.each_ref().map(Node::client);
    answered_by(&mut clients[0], FRONTEND, "a");
    answered_by(&mut clients[1], FRONTEND, "b");
    for policy in &policies {
        world.wait_condition(policy, "Conflicted", ("False", "NoConflict"), "");
        world.wait_condition(policy, "Programmed", ("True", "Programmed"), "");
    }
    // The second node moves to the zone of the first.
    let n2 = Object::named("v1", "Node", "", "n2");
    world.plane.client().patch(&n2, "", serde_json::json!({"metadata": {"labels": {"zone": "a"}}})).unwrap();
    answered_by(&mut clients[1], FRONTEND, "a");
    world.wait_condition(&policies[1], "Programmed", ("False", "NotSelected"), "no node");
    // And a node that has no zone has no redirect.
    world.plane.client().patch(&n2, "", serde_json::json!({"metadata": {"labels": {"zone": null}}})).unwrap();
    eventually(|| match clients[1].ask_tcp(address(FRONTEND)) {
        Err(_) => Ok(()),
        Ok(name) => Err(format!("still answered by {name}")),
    });
}

/// The agent outside has the rights of `external.yaml` only, and every process of its host is hooked.
#[test]
fn a_host_outside_the_cluster() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _inside = world.started_node();
    let kubeconfig = world.plane.service_account_kubeconfig(NAMESPACE, "balancing-external");
    let mut host = Node::in_cluster(&world.plane, "outside", &kubeconfig, NAMESPACE, &["--role", "external"]);
    let _servers = [
        host.serve("backend", &["10.1.0.1:80"]),
        host.serve("original", &["169.254.0.10:80", "169.254.0.11:80", "169.254.0.12:80"]),
    ];
    world.put(&Object::balancing("everywhere", "169.254.0.10", 80, "web"));
    let inside = Object::balancing("inside", "169.254.0.11", 80, "web");
    world.put(&inside.with("/spec/config/enableOutCluster", false));
    world.put(&Object::local_redirect("local", "169.254.0.12", 80, "web"));
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    host.start();
    let mut client = host.client();
    answered_by(&mut client, "169.254.0.10:80", "backend");
    assert_eq!(client.ask_tcp(address("169.254.0.11:80")), Ok("original".to_owned()));
    assert_eq!(client.ask_tcp(address("169.254.0.12:80")), Ok("original".to_owned()));
    world.plane.set_ready("default", "web", false);
    eventually(|| match client.ask_tcp(address("169.254.0.10:80")) {
        Err(_) => Ok(()),
        Ok(name) => Err(format!("still answered by {name}")),
    });
    let view = host.wait_view(|view| view.ready);
    assert_eq!((view.role.as_str(), view.source.problems.as_slice()), ("external", &[][..]));
}
