//! EndpointSlices of ours, and objects as an API server lists them.

use serde_json::{Value, json};

use super::messages;
use crate::{
    manifest::{Manifest, read_tree},
    objects::{Endpoint, Endpoints, Object, ObjectKey, ObjectRef, PolicyRef, Port},
};

use balancing_abi::model::{PolicyKind, Protocol};

fn slice() -> Value {
    json!({
        "metadata": {
            "namespace": "system",
            "name": "web-1",
            "labels": {"endpointslice.kubernetes.io/managed-by": "balancing.elf.io"},
            "annotations": {"balancing.elf.io/generation": "7", "balancing.elf.io/slices": "2",
                "balancing.elf.io/external-addresses": "192.0.2.1,::ffff:192.0.2.2,odd,fd00::1"},
            "ownerReferences": [{"kind": "BalancingPolicy", "name": "web", "uid": "u"}],
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": true},
                "nodeName": "a",
                "zone": "z1",
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-0"},
            },
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"]},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

fn read(tree: Value) -> Manifest {
    read_tree(tree, "discovery.k8s.io/v1", "EndpointSlice")
}

fn reference(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef { namespace: namespace.to_owned(), name: name.to_owned() }
}

#[test]
fn a_slice_of_ours_lists_the_endpoints_of_its_policy() {
    let manifest = read(slice());
    let [Object::Endpoints(endpoints)] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    let endpoint = |ip: &str, ready| Endpoint {
        ip: ip.parse().unwrap(),
        pod: reference("", ""),
        node: String::new(),
        zone: String::new(),
        ready,
    };
    let first = Endpoint {
        pod: reference("default", "web-0"),
        node: "a".to_owned(),
        zone: "z1".to_owned(),
        ..endpoint("10.0.0.1", true)
    };
    let expected = Endpoints {
        slice: reference("system", "web-1"),
        policy: PolicyRef { kind: PolicyKind::Balancing, name: "web".to_owned() },
        policy_uid: "u".to_owned(),
        generation: Some(7),
        set_size: Some(2),
        // What cannot be read is not approved.
        approved: Some(
            ["192.0.2.1", "192.0.2.2", "fd00::1"].map(|ip| ip.parse().unwrap()).into_iter().collect(),
        ),
        ports: vec![Port { port: 8080, protocol: Protocol::Tcp, name: "http".to_owned() }],
        // Who does not say that it is ready gets no connection.
        list: vec![first, endpoint("10.0.0.2", false), endpoint("10.0.0.3", false)],
    };
    assert_eq!(*endpoints, expected);
    assert_eq!(messages(&manifest), [""; 0]);
}

/// As agents of an earlier version write them.
#[test]
fn a_slice_may_not_say_of_which_generation_it_is() {
    let mut tree = slice();
    tree["metadata"].as_object_mut().unwrap().remove("annotations");
    let manifest = read(tree);
    let [Object::Endpoints(endpoints)] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    assert_eq!((endpoints.generation, endpoints.set_size, &endpoints.approved), (None, None, &None));
}

#[test]
fn slices_of_others_say_nothing() {
    for manager in
        [json!({}), json!({"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})]
    {
        let mut tree = slice();
        tree["metadata"]["labels"] = manager;
        let manifest = read(tree);
        assert_eq!((manifest.objects.len(), manifest.problems.len()), (0, 0), "{manifest:?}");
    }
}

#[test]
fn a_slice_without_a_policy_is_reported_and_unreadable() {
    let mut tree = slice();
    tree["metadata"]["ownerReferences"] = json!([{"kind": "Service", "name": "web"}]);
    let manifest = read(tree);
    let [message] = messages(&manifest).try_into().unwrap();
    assert!(message.starts_with("EndpointSlice system/web-1: metadata.ownerReferences: "), "{message}");
    assert!(manifest.unreadable.contains(&ObjectKey::Endpoints(reference("system", "web-1"))));
}

#[test]
fn a_wrong_address_leaves_out_only_itself() {
    let mut tree = slice();
    tree["endpoints"][1]["addresses"] = json!(["web.example"]);
    let manifest = read(tree);
    let [Object::Endpoints(endpoints)] = manifest.objects.as_slice() else { panic!("{manifest:?}") };
    assert_eq!(endpoints.list.len(), 2);
    let [message] = messages(&manifest).try_into().unwrap();
    assert!(message.contains("endpoints[1].addresses[0]: must be an IP address"), "{message}");
}

#[test]
fn items_of_a_typed_list_know_no_kind() {
    let manifest = read_tree(json!({"metadata": {"name": "a"}}), "v1", "Node");
    assert!(matches!(manifest.objects.as_slice(), [Object::Node(node)] if node.name == "a"), "{manifest:?}");
}
