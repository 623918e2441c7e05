//! What is deleted although it was asked about again, and what is not.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use balancing_core::membership::mac_of;
use http::{Request, Response};
use kube::client::Body;
use serde_json::Value;

use super::*;

/// What an API server has, by path; what is not there is not found. Counts deletions.
fn server(objects: Vec<(&'static str, Value)>) -> (FabricWriter, Arc<Mutex<usize>>) {
    let deletions = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&deletions);
    let service = tower::service_fn(move |request: Request<Body>| {
        if request.method() == http::Method::DELETE {
            *counted.lock().unwrap() += 1;
        }
        let found = objects.iter().find(|(path, _)| request.uri().path().ends_with(path));
        let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
            "message": "", "code": 404});
        let (code, body) = found.map_or((404, &missing), |(_, object)| (200, object));
        let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
        async move { Ok::<_, Infallible>(response.unwrap()) }
    });
    (FabricWriter::new(&Client::new(service, "own"), "own"), deletions)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": kind,
        "metadata": {"name": name, "uid": format!("{name}-uid"), "resourceVersion": "7"}, "spec": spec})
}

fn member(mac_of_name: &str) -> Value {
    let mac = mac_of("f", mac_of_name).map(|byte| format!("{byte:02x}")).join(":");
    object(
        "TunnelNode",
        "host.db",
        json!({"fabric": "f", "kind": "ExternalHost", "name": "db", "uid": "db-uid", "port": 7710, "mac": mac,
            "underlay": {"ipv4": "192.0.2.1"}, "addresses": ["10.211.0.2"], "mtu": 1450}),
    )
}

fn host(network: &str, paused: bool) -> Value {
    let spec = json!({"fabric": "f", "user": "db", "underlayCIDRs": [network], "paused": paused});
    object("ExternalHost", "db", spec)
}

fn fabrics(names: &[&str]) -> Value {
    let items: Vec<_> =
        names.iter().map(|name| object("TunnelFabric", name, json!({"ipv4Pool": "10.211.0.0/16"}))).collect();
    json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": "TunnelFabricList", "metadata": {}, "items": items})
}

fn lease(renewed: &str) -> Value {
    let lease = json!({"metadata": {"name": "host.db"}, "spec": {"renewTime": renewed}});
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {}, "items": [lease]})
}

async fn removes(why: Gone, member: Value, host: Value, fabric: &[&str]) -> bool {
    let (writer, deletions) = server(vec![
        ("/tunnelnodes/host.db", member),
        ("/externalhosts/db", host),
        ("/tunnelfabrics", fabrics(fabric)),
        ("/leases", lease("2026-01-01T00:00:00.000000Z")),
    ]);
    let remains = Remains {
        kind: Kind::TunnelNode,
        name: "host.db".to_owned(),
        uid: "host.db-uid".to_owned(),
        fabric: "f".to_owned(),
        owner: Owner { kind: MemberKind::ExternalHost, name: "db".to_owned(), uid: "db-uid".to_owned() },
        why,
        accepted: None,
    };
    let removed = writer.remove(&remains).await.unwrap();
    assert_eq!(*deletions.lock().unwrap(), usize::from(removed));
    removed
}

#[tokio::test]
async fn a_member_goes_only_for_what_is_so_when_it_is_asked_again() {
    let near = "192.0.2.0/24";
    let own = || member("host.db");
    for why in [Gone::Paused, Gone::Underlay, Gone::Mac, Gone::Outside, Gone::NoFabric] {
        assert!(!removes(why.clone(), own(), host(near, false), &["f"]).await, "{why}");
    }
    assert!(removes(Gone::Paused, own(), host(near, true), &["f"]).await);
    assert!(removes(Gone::Underlay, own(), host("198.51.100.0/24", false), &["f"]).await);
    assert!(removes(Gone::Mac, member("node.n1"), host(near, false), &["f"]).await);
    assert!(removes(Gone::NoFabric, own(), host(near, false), &["g"]).await);
    let mut elsewhere = host(near, false);
    elsewhere["spec"]["fabric"] = "g".into();
    assert!(removes(Gone::Outside, own(), elsewhere, &["f", "g"]).await);
}

#[tokio::test]
async fn a_host_that_has_renewed_meanwhile_is_not_silent() {
    let silent = |renewed: &str| Gone::Silent(renewed.parse().unwrap());
    let host = || host("192.0.2.0/24", false);
    assert!(removes(silent("2026-01-01T00:00:00Z"), member("host.db"), host(), &["f"]).await);
    assert!(!removes(silent("2025-12-31T23:59:50Z"), member("host.db"), host(), &["f"]).await);
}

/// Whether the TunnelNode of a Node goes that is outside by what a controller accepted, while the server shows an edit.
async fn leaves(labels: Value, accepted: Option<&str>) -> bool {
    let mac = mac_of("f", "node.n1").map(|byte| format!("{byte:02x}")).join(":");
    let member = object(
        "TunnelNode",
        "node.n1",
        json!({"fabric": "f", "kind": "Node", "name": "n1", "uid": "n1-uid", "port": 7710, "mac": mac,
            "underlay": {"ipv4": "192.0.2.1"}, "addresses": ["10.211.0.2"], "mtu": 1450}),
    );
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "n1-uid", "labels": labels}});
    let (writer, _) = server(vec![
        ("/tunnelnodes/node.n1", member),
        ("/nodes/n1", node),
        ("/tunnelfabrics", fabrics(&["f"])),
    ]);
    let accepted = accepted.map(|selector| {
        let said = json!({"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 0}]});
        let mut fabric = object(
            "TunnelFabric",
            "f",
            json!({"ipv4Pool": "10.211.0.0/16", "nodeSelector": {"matchLabels": {(selector): "1"}}}),
        );
        fabric["status"] = said;
        let manifest =
            balancing_core::manifest::parse(&fabric.to_string(), balancing_core::manifest::Format::Json);
        let Some(Object::Fabric(fabric)) = manifest.unwrap().objects.pop() else { panic!() };
        Box::new(fabric)
    });
    let remains = Remains {
        kind: Kind::TunnelNode,
        name: "node.n1".to_owned(),
        uid: "node.n1-uid".to_owned(),
        fabric: "f".to_owned(),
        owner: Owner { kind: MemberKind::Node, name: "n1".to_owned(), uid: "n1-uid".to_owned() },
        why: Gone::Outside,
        accepted,
    };
    writer.remove(&remains).await.unwrap()
}

#[tokio::test]
async fn who_has_left_by_what_was_accepted_goes_also_beside_an_edit() {
    assert!(leaves(json!({}), Some("in")).await);
    assert!(!leaves(json!({"in": "1"}), Some("in")).await, "it is back");
    assert!(!leaves(json!({}), None).await, "nothing is known of what was accepted");
}
