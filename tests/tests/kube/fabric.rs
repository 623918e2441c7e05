//! What the controller does for the fabric.

use balancing_tests::*;
use serde_json::json;

use crate::{
    fabric_hosts::mac,
    world::{NAMESPACE, VERSION, World, answered_by, number, text},
};

fn fabric(name: &str, pool: &str) -> Object {
    Object::named(VERSION, "TunnelFabric", "", name).with("/spec/ipv4Pool", pool)
}

fn member(node: &Object, address: &str) -> Object {
    Object::named(VERSION, "TunnelNode", "", &format!("node.{}", node.name())).with(
        "/spec",
        json!({
            "fabric": "default", "kind": "Node", "name": node.name(), "uid": node.uid(),
            "underlay": {"ipv4": text(node, "/status/addresses/0/address")}, "port": 7710,
            "mac": mac("default", &format!("node.{}", node.name())), "addresses": [address], "mtu": 1450,
        }),
    )
}

/// The time as a Lease has it.
fn now() -> String {
    let date =
        std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.000000Z"]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn wait_gone(world: &World, object: &Object) {
    eventually(|| match world.plane.client().get(object) {
        Err(refusal) if refusal.code == 404 => Ok(()),
        other => Err(format!("{} is still there: {other:?}", object.name())),
    });
}

#[test]
fn a_fabric_tells_how_it_is() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let n1 = world.plane.add_node("n1", &[], "192.0.2.1");
    let n2 = world.plane.add_node("n2", &[], "192.0.2.2");
    world
        .plane
        .client()
        .patch(&n1, "", json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}))
        .unwrap();
    let overlapping = world.put(&fabric("default", "10.1.0.0/16"));
    world.wait_condition(&overlapping, "Accepted", ("False", "PoolOverlaps"), "pod network of Node n1");
    let default = world.put(&fabric("default", "10.211.0.0/30"));
    world.wait_condition(&default, "Accepted", ("True", "Accepted"), "");
    world.wait_condition(&default, "Exhausted", ("False", "AddressesLeft"), "");
    let claim = Object::named(VERSION, "TunnelAddressClaim", "", "10-211-0-2").with(
        "/spec",
        json!({
            "fabric": "default", "address": "10.211.0.2",
            "owner": {"kind": "Node", "name": "n1", "uid": n1.uid()},
        }),
    );
    world.put(&claim);
    world.wait_condition(&default, "Exhausted", ("True", "PoolExhausted"), "10.211.0.0/30");
    // Of two without a claim the older one counts.
    world.delete(&claim);
    world.wait_condition(&default, "Exhausted", ("False", "AddressesLeft"), "");
    let first = world.put(&member(&n1, "10.211.0.2"));
    let born = text(&first, "/metadata/creationTimestamp").to_owned();
    let second = eventually(|| {
        let second = world.put(&member(&n2, "10.211.0.2"));
        if text(&second, "/metadata/creationTimestamp") > born.as_str() {
            return Ok(second);
        }
        world.delete(&second);
        Err("both members are of one second".to_owned())
    });
    world.wait_condition(&second, "Conflicted", ("True", "DuplicateAddress"), "TunnelNode node.n1");
    eventually(|| {
        let stored = world.plane.client().get(&default).map_err(|refusal| refusal.to_string())?;
        let counts = ["/status/members", "/status/claims"].map(|field| number(&stored, field));
        if counts == [Some(2), Some(0)] { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    let shown = world.plane.kubectl(&["get", "tf,tn,tac,xh"]);
    assert!(
        shown.ok
            && ["10.211.0.0/30", "node.n2", " 10.211.0.2 "].iter().all(|text| shown.stdout.contains(text))
            && !shown.stdout.contains('['),
        "{}",
        shown.stdout
    );
    // vni and port are for ever.
    let changed = world.plane.client().patch(&default, "", json!({"spec": {"vxlan": {"port": 7711}}}));
    assert!(changed.unwrap_err().to_string().contains("vni and port never change"));
}

#[test]
fn what_a_node_left_behind_is_removed_and_a_new_node_of_its_name_is_not_harmed() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.put(&fabric("default", "10.211.0.0/16"));
    let node = world.plane.add_node("n1", &[], "192.0.2.1");
    let other = world.plane.add_node("n2", &[], "192.0.2.2");
    let (left, stays) = (world.put(&member(&node, "10.211.0.2")), world.put(&member(&other, "10.211.0.3")));
    world.delete(&node);
    wait_gone(&world, &left);
    let again = world.plane.add_node("n1", &[], "192.0.2.1");
    let new = world.put(&member(&again, "10.211.0.2"));
    // One of the former node that comes late goes again.
    let late = world.put(&member(&node, "10.211.0.2"));
    assert_eq!(late.uid(), new.uid());
    wait_gone(&world, &late);
    world.put(&member(&again, "10.211.0.2"));
    world.delete(&other);
    wait_gone(&world, &stays);
    assert!(world.plane.client().get(&new).is_ok());
}

#[test]
fn an_external_host_tells_whether_it_has_joined() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let host = Object::named(VERSION, "ExternalHost", "", "db")
        .with("/spec", json!({"fabric": "default", "user": "db", "underlayCIDRs": ["198.51.100.0/24"]}));
    let host = world.put(&host);
    world.wait_condition(&host, "Joined", ("False", "NoFabric"), "default");
    world.put(&fabric("default", "10.211.0.0/16"));
    world.wait_condition(&host, "Joined", ("False", "NotJoined"), "host.db");
    let spec = json!({"holderIdentity": "db", "leaseDurationSeconds": 3600, "renewTime": now()});
    let lease = Object::named("coordination.k8s.io/v1", "Lease", NAMESPACE, "host.db").with("/spec", spec);
    world.put(&lease);
    let member = Object::named(VERSION, "TunnelNode", "", "host.db").with(
        "/spec",
        json!({
            "fabric": "default", "kind": "ExternalHost", "name": "db", "uid": host.uid(),
            "underlay": {"ipv4": "198.51.100.7"}, "port": 7710, "mac": mac("default", "host.db"),
            "addresses": ["10.211.0.9"], "mtu": 1450,
        }),
    );
    world.put(&member);
    // Leases are read once a minute; another leader reads them at once.
    world.controller.borrow_mut().terminate();
    world.controller.borrow_mut().start();
    world.wait_condition(&host, "Joined", ("True", "Joined"), "");
    let host = world.plane.client().get(&host).unwrap();
    assert_eq!(text(&host, "/status/tunnelNode"), "host.db");
    assert!(!text(&host, "/status/lastRenewal").is_empty());
}

#[test]
fn the_controller_chooses_ports_and_keeps_them() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let policy = |name: &str, address: &str| {
        let ports = json!([{"port": 0, "name": "http", "targetPort": 8080}]);
        Object::balancing(name, address, 80, "web")
            .with("/spec/backend/serviceEndpoint/redirectMode", "nodeProxy")
            .with("/spec/backend/serviceEndpoint/toPorts", ports)
    };
    let first = world.put(&policy("first", "169.254.0.10"));
    world.wait_condition(&first, "Programmed", ("False", "Pending"), "proxyPorts of a TunnelFabric");
    let range =
        fabric("default", "10.211.0.0/16").with("/spec/proxyPorts", json!({"from": 21000, "to": 21001}));
    world.put(&range);
    let port_of = |policy: &Object, port: Option<i64>| {
        eventually(|| {
            let stored = world.plane.client().get(policy).map_err(|refusal| refusal.to_string())?;
            let found = number(&stored, "/status/proxyPorts/0/port");
            if found == port { Ok(()) } else { Err(format!("{}: {found:?}, not {port:?}", policy.name())) }
        });
    };
    port_of(&first, Some(21000));
    let second = world.put(&policy("second", "169.254.0.11"));
    port_of(&second, Some(21001));
    let third = world.put(&policy("third", "169.254.0.12"));
    world.wait_condition(&third, "Programmed", ("False", "Pending"), "waits for the controller");
    // Another range, and another leader, change nothing of what was given.
    world.put(
        &fabric("default", "10.211.0.0/16").with("/spec/proxyPorts", json!({"from": 22000, "to": 22001})),
    );
    port_of(&third, Some(22000));
    world.controller.borrow_mut().terminate();
    world.controller.borrow_mut().start();
    world.delete(&second);
    let node = world.plane.add_node("n1", &[], "192.0.2.1");
    world.put(&node.annotated("balancing.elf.io/nodeProxyIpv4", "10.211.0.9").with("/status", json!({})));
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    world.wait_condition(&first, "Programmed", ("True", "Programmed"), "1 frontend, 1 backend");
    port_of(&first, Some(21000));
    port_of(&third, Some(22000));
    // Who names a port itself has none given.
    let named = json!([{"port": 5000, "targetPort": 8080}]);
    world.put(&policy("first", "169.254.0.10").with("/spec/backend/serviceEndpoint/toPorts", named));
    port_of(&first, None);
}

/// As it is on a cluster whose CRDs are older than the agent.
#[test]
fn without_the_crds_of_the_fabric_only_the_fabric_waits() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    for plural in ["tunnelfabrics", "tunnelnodes", "tunneladdressclaims", "externalhosts"] {
        world.plane.delete(&["crd", &format!("{plural}.balancing.elf.io")]);
    }
    world.controller.borrow_mut().terminate();
    world.controller.borrow_mut().start();
    let node = world.started_node();
    let _server = node.serve("web", &["10.1.0.1:80"]);
    let policy = world.put(&Object::balancing("p", "169.254.0.10", 80, "web"));
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    answered_by(&mut node.client(), "169.254.0.10:80", "web");
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
    let view = node.wait_view(|view| view.ready);
    assert!(
        view.source.problems.iter().any(|problem| problem.contains("crds")),
        "{:?}",
        view.source.problems
    );
    world.plane.install_crds();
    node.wait_view(|view| view.source.problems.is_empty());
    let fabric = world.put(&fabric("default", "10.211.0.0/16"));
    world.wait_condition(&fabric, "Accepted", ("True", "Accepted"), "");
}
