//! Several agents: node labels, hosts outside the cluster, and who speaks for all of them.

use balancing_tests::*;

use crate::world::{NAMESPACE, World, answered_by, repository};

const FRONTEND: &str = "169.254.0.10:80";

fn lease_holder(world: &World) -> Option<String> {
    let lease = Object::named("coordination.k8s.io/v1", "Lease", NAMESPACE, "balancing-agent");
    let lease = world.plane.client().get(&lease).ok()?;
    lease.at("/spec/holderIdentity").as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

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

#[test]
fn another_agent_speaks_for_all_when_the_elected_one_dies() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut nodes = [("n1", "192.0.2.1"), ("n2", "192.0.2.2")].map(|(name, ip)| world.node(name, &[], ip));
    nodes[0].start();
    eventually(|| lease_holder(&world).filter(|holder| holder == "n1").ok_or("n1 is not elected".to_owned()));
    nodes[1].start();
    let policy = world.put(&Object::balancing_to("p", "169.254.0.10", 80, &["10.1.0.1"]));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
    nodes[0].agent().kill();
    let policy = world.put(&policy.with("/spec/enabled", false));
    // The lease of a dead agent runs out first.
    eventually_within(std::time::Duration::from_secs(120), || match lease_holder(&world) {
        Some(holder) if holder == "n2" => Ok(()),
        other => Err(format!("{other:?} is elected")),
    });
    world.wait_condition(&policy, "Programmed", ("False", "Disabled"), "");
    // One that is asked to stop gives the lease back: nobody waits until it has run out.
    nodes[0].start();
    assert!(nodes[1].agent().terminate().success());
    assert_ne!(lease_holder(&world).as_deref(), Some("n2"));
    eventually(|| lease_holder(&world).filter(|holder| holder == "n1").ok_or("n1 is not elected".to_owned()));
    let policy = world.put(&policy.with("/spec/enabled", true));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
}

/// The agent outside has the rights of `external.yaml` only, and every process of its host is hooked.
#[test]
fn a_host_outside_the_cluster() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _inside = world.started_node();
    world.plane.apply_file(&repository().join("install/rbac/external.yaml"));
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
