//! Services as frontends, while they come, go and change.

use balancing_tests::*;
use serde_json::json;

use crate::world::{World, answered_by, service};

#[test]
fn a_service_that_comes_later_is_recreated_and_changes_ports() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let _servers = [
        node.serve("local", &["10.1.0.1:80"]),
        node.serve("original", &["10.96.0.20:80", "10.96.0.21:80", "10.96.0.21:8080"]),
    ];
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    world.put(&Object::local_redirect("p", "::", 80, "web").for_service("web"));
    node.wait_policy("p", |view| view.reason == "ServiceNotFound");
    let mut client = node.client();
    answered_by(&mut client, "10.96.0.20:80", "original");
    let first = world.put(&service("web", "10.96.0.20", &[("http", 80)]));
    answered_by(&mut client, "10.96.0.20:80", "local");
    world.delete(&first);
    answered_by(&mut client, "10.96.0.20:80", "original");
    world.put(&service("web", "10.96.0.21", &[("http", 80)]));
    answered_by(&mut client, "10.96.0.21:80", "local");
    assert_eq!(client.ask_tcp(address("10.96.0.20:80")), Ok("original".to_owned()));
    world.put(&service("web", "10.96.0.21", &[("http", 8080)]));
    answered_by(&mut client, "10.96.0.21:8080", "local");
    answered_by(&mut client, "10.96.0.21:80", "original");
}

#[test]
fn a_dual_stack_service_is_redirected_in_both_families() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let _servers = [
        node.serve("local", &["10.1.0.1:80", "[fd00:1::1]:80"]),
        node.serve("original", &["10.96.0.20:80", "[fd00:96::20]:80"]),
    ];
    let dual = service("web", "10.96.0.20", &[("http", 80)])
        .with("/spec/clusterIPs", json!(["10.96.0.20", "fd00:96::20"]))
        .with("/spec/ipFamilies", json!(["IPv4", "IPv6"]))
        .with("/spec/ipFamilyPolicy", "RequireDualStack");
    world.put(&dual);
    world.put(&Object::local_redirect("p", "::", 80, "web").for_service("web"));
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1", "fd00:1::1"]));
    let mut client = node.client();
    answered_by(&mut client, "10.96.0.20:80", "local");
    answered_by(&mut client, "[fd00:96::20]:80", "local");
}

/// A BalancingPolicy also takes what the outside world dials.
#[test]
fn load_balancer_and_external_addresses() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let _servers = [node.serve("backend", &["10.1.0.1:80"])];
    let outside = service("web", "10.96.0.20", &[("http", 80)])
        .with("/spec/type", "LoadBalancer")
        .with("/spec/externalIPs", json!(["203.0.113.7"]));
    let outside = world.put(&outside);
    world.put(&Object::balancing_to("p", "::", 80, &["10.1.0.1"]).for_service("web"));
    let mut client = node.client();
    answered_by(&mut client, "10.96.0.20:80", "backend");
    answered_by(&mut client, "203.0.113.7:80", "backend");
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.8"}]}}});
    world.plane.client().patch(&outside, "status", ingress).unwrap();
    answered_by(&mut client, "203.0.113.8:80", "backend");
}
