//! Pods of this node as backends, through their lives.

use balancing_tests::*;

use crate::world::{World, answered_by};

const FRONTEND: &str = "169.254.0.10:80";

fn frontend(world: &World, node: &Node) -> (Client, [EchoServer; 3]) {
    world.put(&Object::local_redirect("p", "169.254.0.10", 80, "web"));
    let servers = [("original", FRONTEND), ("first", "10.1.0.1:80"), ("second", "10.1.0.2:80")];
    (node.client(), servers.map(|(name, at)| node.serve(name, &[at])))
}

#[test]
fn unready_terminating_and_restarted_with_the_same_name() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let (mut client, _servers) = frontend(&world, &node);
    let pod = world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    answered_by(&mut client, FRONTEND, "first");
    world.plane.set_ready("default", "web", false);
    answered_by(&mut client, FRONTEND, "original");
    world.plane.set_ready("default", "web", true);
    answered_by(&mut client, FRONTEND, "first");
    world.plane.client().terminate(&pod).unwrap();
    answered_by(&mut client, FRONTEND, "original");
    world.delete(&pod);
    let again = world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.2"]));
    assert_ne!(pod.uid(), again.uid());
    answered_by(&mut client, FRONTEND, "second");
}

#[test]
fn host_network_pods_and_pods_of_other_nodes() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    world.plane.add_node("n2", &[], "192.0.2.2");
    let (mut client, _servers) = frontend(&world, &node);
    let _host = node.serve("host", &["192.0.2.1:80"]);
    let far = world.plane.run_pod(&Object::pod("far", "web", &["10.1.0.2"]).with("/spec/nodeName", "n2"));
    assert_eq!(far.at("/spec/nodeName"), "n2");
    let host = Object::pod("host", "web", &["192.0.2.1"]).with("/spec/hostNetwork", true);
    let host = world.plane.run_pod(&host);
    answered_by(&mut client, FRONTEND, "host");
    world.delete(&host);
    // The pod of the other node is ready all the time and never counts here.
    answered_by(&mut client, FRONTEND, "original");
    assert_eq!(node.wait_policy("p", |view| view.accepted).backends, 0);
}

#[test]
fn a_client_pod_is_hooked_by_the_uid_that_the_api_server_chose() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let (_, _servers) = frontend(&world, &node);
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    let pod = world.plane.run_pod(&Object::pod("client", "client", &["10.1.0.9"]));
    let sandbox = node.sandbox(&pod);
    let mut client = sandbox.client();
    answered_by(&mut client, FRONTEND, "first");
    let pods = node.ctl_json(&["pods"]);
    assert!(pods.as_array().unwrap().iter().any(|row| row["uid"] == pod.uid()), "{pods}");
}
