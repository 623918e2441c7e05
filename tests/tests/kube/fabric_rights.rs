//! What members of a fabric may write: what is their own. Each test is what somebody can do who has stolen the token of one.

use balancing_tests::*;
use serde_json::json;

use crate::{
    fabric_hosts::mac,
    world::{NAMESPACE, VERSION, World},
};

const GROUP: &str = "balancing:external-hosts";

/// The TunnelNode of a Node or ExternalHost.
fn member(kind: &str, owner: &Object, underlay: &str) -> Object {
    let prefix = if kind == "Node" { "node" } else { "host" };
    let name = format!("{prefix}.{}", owner.name());
    Object::named(VERSION, "TunnelNode", "", &name).with(
        "/spec",
        json!({
            "fabric": "default", "kind": kind, "name": owner.name(), "uid": owner.uid(),
            "underlay": {"ipv4": underlay}, "port": 7710, "mac": mac("default", &name),
            "addresses": ["10.211.0.9"], "mtu": 1450,
        }),
    )
}

fn claim(kind: &str, owner: &Object, address: &str) -> Object {
    Object::named(VERSION, "TunnelAddressClaim", "", &address.replace('.', "-")).with(
        "/spec",
        json!({
            "fabric": "default", "address": address,
            "owner": {"kind": kind, "name": owner.name(), "uid": owner.uid()},
        }),
    )
}

fn host(name: &str, spec: serde_json::Value) -> Object {
    let host = Object::named(VERSION, "ExternalHost", "", name).with("/spec", spec);
    host.with("/spec/fabric", "default").with("/spec/underlayCIDRs", json!(["198.51.100.0/24"]))
}

fn lease(name: &str, holder: &str) -> Object {
    let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"});
    Object::named("coordination.k8s.io/v1", "Lease", NAMESPACE, name).with("/spec", spec)
}

#[track_caller]
fn refused<T>(result: Result<T, Refusal>, words: &str) {
    let refusal = result.err().unwrap_or_else(|| panic!("not refused: {words}")).to_string();
    assert!(refusal.contains(words), "{words:?} is not in: {refusal}");
}

/// The checks, and the list of hosts, take a moment to be in force.
#[track_caller]
fn soon<T: std::fmt::Debug>(mut attempt: impl FnMut() -> Result<T, Refusal>) -> T {
    eventually(|| attempt().map_err(|refusal| refusal.to_string()))
}

#[test]
fn a_node_describes_itself_and_no_other() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let [n1, n2] =
        [("n1", "192.0.2.1"), ("n2", "192.0.2.2")].map(|(name, ip)| world.plane.add_node(name, &[], ip));
    let stolen = world.plane.client_of(&world.kubeconfig("n1"));
    let unbound = world.plane.service_account_kubeconfig(NAMESPACE, "balancing-agent");
    let unbound = world.plane.client_of(&unbound);
    eventually(|| match unbound.check(&member("Node", &n2, "192.0.2.2")) {
        Err(refusal) if refusal.to_string().contains("names no node") => Ok(()),
        other => Err(format!("{other:?}")),
    });

    let own = "of its own node only, which is n1";
    refused(stolen.create(&member("Node", &n2, "192.0.2.2")), own);
    refused(stolen.create(&claim("Node", &n2, "10.211.0.9")), own);
    let impostor = member("ExternalHost", &n1, "192.0.2.1");
    refused(stolen.create(&impostor), own);
    refused(stolen.create(&claim("ExternalHost", &n1, "10.211.0.9")), own);
    refused(
        stolen.create(&member("Node", &n1, "192.0.2.1").with("/spec/uid", n2.uid())),
        "uid must be the one of the Node",
    );
    refused(
        stolen
            .create(&member("Node", &n1, "192.0.2.1").with("/metadata/finalizers", json!(["example.org/x"]))),
        "finalizers",
    );
    let mine = stolen.put(&member("Node", &n1, "192.0.2.1")).unwrap();
    let address = stolen.create(&claim("Node", &n1, "10.211.0.9")).unwrap();
    refused(stolen.patch(&mine, "status", json!({"status": {"conditions": []}})), "forbidden");
    refused(stolen.patch(&address, "", json!({"spec": {"fabric": "other"}})), "forbidden");
    refused(
        world.plane.client().patch(&address, "", json!({"spec": {"fabric": "other"}})),
        "a claim never changes",
    );

    let theirs = world.plane.client().create(&claim("Node", &n2, "10.211.0.10")).unwrap();
    // With its own address: whoever has that of another claim is deleted.
    let other = member("Node", &n2, "192.0.2.2").with("/spec/addresses", json!(["10.211.0.10"]));
    let other = world.plane.client().create(&other).unwrap();
    refused(stolen.patch(&other, "", json!({"spec": {"underlay": {"ipv4": "10.66.6.6"}}})), own);
    refused(stolen.delete(&other), own);
    refused(stolen.delete(&theirs), own);
    let fabric = Object::named(VERSION, "TunnelFabric", "", "f").with("/spec/ipv4Pool", "10.211.0.0/16");
    refused(stolen.create(&fabric), "forbidden");
    refused(stolen.create(&host("h", json!({"user": "h"}))), "forbidden");
    stolen.delete(&address).unwrap();
    stolen.delete(&mine).unwrap();
}

#[test]
fn a_node_changes_two_annotations_of_its_own_node() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let [n1, n2] = [("n1", "192.0.2.1"), ("n2", "192.0.2.2")]
        .map(|(name, ip)| world.plane.add_node(name, &[("a", "b")], ip));
    world.plane.client().patch(&n1, "", json!({"metadata": {"annotations": {"other": "x"}}})).unwrap();
    let stolen = world.plane.client_of(&world.kubeconfig("n1"));
    let annotate = |name: &str, value: serde_json::Value| json!({"metadata": {"annotations": {name: value}}});
    let [ipv4, ipv6] = ["balancing.elf.io/nodeProxyIpv4", "balancing.elf.io/nodeProxyIpv6"];
    eventually(|| match stolen.patch(&n2, "", annotate(ipv4, "10.66.6.6".into())) {
        Err(refusal) if refusal.to_string().contains("its own Node only, which is n1") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let nothing_else = "nothing of a Node but";
    for patch in [
        annotate("other", "y".into()),
        annotate("other", json!(null)),
        annotate("new", "y".into()),
        json!({"metadata": {"labels": {"a": "c"}}}),
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
        json!({"metadata": {"finalizers": ["example.org/x"]}}),
        json!({"spec": {"unschedulable": true}}),
        json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}}),
        json!({"metadata": {"annotations": {ipv4: "10.211.0.9", "other": "y"}}}),
    ] {
        refused(stolen.patch(&n1, "", patch), nothing_else);
    }
    refused(stolen.patch(&n1, "status", json!({"status": {"conditions": []}})), "forbidden");
    let node =
        stolen.patch(&n1, "", json!({"metadata": {"annotations": {ipv4: "10.211.0.9", ipv6: "fd00::9"}}}));
    assert_eq!(node.unwrap().at("/metadata/annotations/other"), "x");
    // As the agent does: a list of what it owns, by server-side apply.
    let applied = Object::named("v1", "Node", "", "n1").annotated(ipv4, "10.211.0.8");
    assert_eq!(
        stolen.put(&applied).unwrap().at("/metadata/annotations/balancing.elf.io~1nodeProxyIpv4"),
        "10.211.0.8"
    );
    stolen.patch(&n1, "", annotate(ipv6, json!(null))).unwrap();
}

#[test]
fn a_host_outside_writes_what_its_externalhost_allows() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.put(&Object::named(VERSION, "TunnelFabric", "", "default").with("/spec/ipv4Pool", "10.211.0.0/16"));
    let db = world.put(&host("db", json!({"user": "db-user"})));
    let other = world.put(&host("other", json!({"user": "other-user"})));
    let stolen = world.plane.client_of(&world.plane.user_kubeconfig("db-user", GROUP, NAMESPACE));
    let stranger = world.plane.client_of(&world.plane.user_kubeconfig("stranger", GROUP, NAMESPACE));
    let node = world.plane.add_node("n1", &[], "192.0.2.1");

    let own = "of its own ExternalHost only";
    let its_lease = "renews its own Lease only";
    eventually(|| {
        match (stranger.check(&member("ExternalHost", &db, "198.51.100.7")), stranger.check(&lease("x", "x")))
        {
            (Err(one), Err(other))
                if one.to_string().contains(own) && other.to_string().contains(its_lease) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    let mine = soon(|| stolen.put(&member("ExternalHost", &db, "198.51.100.7")));
    stolen.create(&claim("ExternalHost", &db, "10.211.0.9")).unwrap();
    stolen.put(&lease("host.db", "db")).unwrap();
    for client in [&stolen, &stranger] {
        refused(client.create(&member("ExternalHost", &other, "198.51.100.8")), own);
        refused(client.create(&claim("ExternalHost", &other, "10.211.0.10")), own);
        refused(client.create(&member("Node", &node, "198.51.100.8")), own);
        refused(client.create(&claim("Node", &node, "10.211.0.10")), own);
        for name in ["host.other", "balancing-controller", "mine"] {
            refused(client.put(&lease(name, "x")), its_lease);
        }
        let annotation =
            json!({"metadata": {"annotations": {"balancing.elf.io/nodeProxyIpv4": "10.66.6.6"}}});
        refused(client.patch(&node, "", annotation), "forbidden");
        refused(client.patch(&other, "", json!({"spec": {"user": "db-user"}})), "forbidden");
        refused(client.get(&Object::named("v1", "Secret", NAMESPACE, "x")), "forbidden");
    }
    refused(stranger.put(&member("ExternalHost", &db, "198.51.100.7")), own);
    refused(stranger.delete(&mine), own);
    let elsewhere = json!({"spec": {"underlay": {"ipv4": "203.0.113.1"}}});
    refused(stolen.patch(&mine, "", elsewhere), "must lie in the underlayCIDRs");
    refused(stolen.patch(&mine, "", json!({"spec": {"uid": other.uid()}})), "uid must be the one");
    let beside = json!({"spec": {"underlay": {"ipv6": "2001:db8::1"}}});
    refused(stolen.patch(&mine, "", beside), "must lie in the underlayCIDRs");
    // Whoever is paused is out, and whose ExternalHost is deleted has no rights left.
    world.put(&host("db", json!({"user": "db-user", "paused": true})));
    eventually(|| match world.plane.client().get(&mine) {
        Err(refusal) if refusal.code == 404 => Ok(()),
        other => Err(format!("still a member: {other:?}")),
    });
    refused(stolen.put(&member("ExternalHost", &db, "198.51.100.7")), own);
    world.put(&host("db", json!({"user": "db-user"})));
    soon(|| stolen.put(&member("ExternalHost", &db, "198.51.100.7")));
    world.delete(&db);
    eventually(|| match stolen.put(&lease("host.db", "db")) {
        Err(refusal) if refusal.to_string().contains(its_lease) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    refused(stolen.put(&member("ExternalHost", &db, "198.51.100.7")), own);
}

/// A ServiceAccount of the agents' namespace has no rights by its place, and those of its ExternalHost by the bindings.
#[test]
fn a_service_account_of_a_host_is_held_to_its_externalhost() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let db = world.put(&host("db", json!({"serviceAccountName": "host-db"})));
    let kubeconfig = world.plane.service_account_kubeconfig(NAMESPACE, "host-db");
    let client = world.plane.client_of(&kubeconfig);
    refused(client.put(&member("ExternalHost", &db, "198.51.100.7")), "forbidden");
    let account = format!("{NAMESPACE}:host-db");
    let bound = world.plane.kubectl(&[
        "create",
        "clusterrolebinding",
        "host-db",
        "--clusterrole=balancing-external-host",
        &format!("--serviceaccount={account}"),
    ]);
    assert!(bound.ok, "{}", bound.stderr);
    let other = world.put(&host("other", json!({"user": "other-user"})));
    eventually(|| match client.check(&member("ExternalHost", &other, "198.51.100.8")) {
        Err(refusal) if refusal.to_string().contains("of its own ExternalHost only") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mine = soon(|| client.put(&member("ExternalHost", &db, "198.51.100.7")));
    client.delete(&mine).unwrap();
}
