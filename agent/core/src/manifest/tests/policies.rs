//! The rules of policies: each with the field and the message it leads to.

use std::collections::BTreeSet;

use balancing_abi::model::{Clients, Protocol};
use serde_json::{Value, json};

use super::{json as parse_json, policy};
use crate::objects::{
    BackendSpec, FrontendSpec, LabelOperator, OnNoBackend, Policy, PolicySpec, PortRef, Problem,
};

mod rules;

/// A valid LocalRedirectPolicy.
fn local() -> Value {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "LocalRedirectPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "frontend": {"addressMatcher": {"ip": "169.254.0.90", "toPorts": [{"port": "80"}]}},
            "backend": {"endpointSelector": {"matchLabels": {"app": "a"}}, "toPorts": [{"port": "8080"}]},
        },
    })
}

/// A valid BalancingPolicy to addresses.
fn to_addresses() -> Value {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "BalancingPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "frontend": {"serviceMatcher": {"serviceName": "s", "namespace": "n"}},
            "backend": {"addressEndpoint": {"addresses": ["192.0.2.1"], "toPorts": [{"port": "8080"}]}},
        },
    })
}

/// A valid BalancingPolicy to pods.
fn to_pods() -> Value {
    let mut policy = to_addresses();
    policy["spec"]["backend"] =
        json!({"serviceEndpoint": {"endpointSelector": {}, "toPorts": [{"port": "8080"}]}});
    policy
}

/// Sets the value at a JSON pointer; null removes it.
fn with(mut base: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = base.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
    match parent {
        Value::Object(map) if value.is_null() => drop(map.remove(key)),
        Value::Object(map) => drop(map.insert(key.replace("~1", "/"), value)),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            panic!("{pointer}: {other}")
        }
    }
    base
}

fn read(text: &Value) -> Policy {
    let manifest = parse_json(&text.to_string());
    assert!(manifest.problems.is_empty(), "{:?}", manifest.problems);
    policy(&manifest).clone()
}

fn valid(text: &Value) -> PolicySpec {
    read(text).spec.unwrap_or_else(|invalid| panic!("{text}: {invalid:?}"))
}

fn problems(text: &Value) -> Vec<String> {
    let line = |p: Problem| format!("{}: {}", p.field, p.message);
    read(text).spec.err().map(|invalid| invalid.problems.into_iter().map(line).collect()).unwrap_or_default()
}

#[test]
fn defaults() {
    let spec = valid(&local());
    assert!(spec.enabled && !spec.skip_redirect_from_backend);
    assert_eq!((spec.qos_limit, spec.clients, spec.affinity), (None, Clients::All, None));
    assert_eq!(spec.on_no_backend, None);
    let spec = valid(&to_pods());
    assert!(spec.enabled && spec.out_cluster);
    let FrontendSpec::Service { service, ports } = &spec.frontend else { panic!("{spec:?}") };
    assert_eq!((service.namespace.as_str(), service.name.as_str(), ports.len()), ("n", "s", 0));
    let BackendSpec::Pods { pods, .. } = &spec.backend else { panic!("{spec:?}") };
    assert_eq!((&pods.selector, &pods.namespace), (&Default::default(), &None));
    assert_eq!(pods.ports[0].port.protocol, Protocol::Tcp);
}

#[test]
fn every_field_is_read() {
    let mut policy = local();
    policy["metadata"] = json!({
        "name": "p", "namespace": "ignored", "generation": 7, "creationTimestamp": "2026-01-02T03:04:05Z",
        "annotations": {"balancing.elf.io/serviceId": "4294967295", "x": 5},
    });
    policy["status"] = json!({"anything": true});
    let spec = &mut policy["spec"];
    spec["enabled"] = json!(false);
    spec["config"] = json!({"nodeLabelSelector": {"matchLabels": {"example.org/zone": "a", "empty": ""}}});
    spec["skipRedirectFromBackend"] = json!(true);
    spec["qosLimit"] = json!(0);
    spec["clients"] = json!("host");
    spec["backend"]["namespace"] = json!("kube-system");
    let policy = read(&policy);
    assert_eq!(
        (policy.generation, policy.created, policy.service_id),
        (7, Some(1_767_323_045), Some(u32::MAX))
    );
    let spec = policy.spec.unwrap();
    assert!(!spec.enabled && spec.skip_redirect_from_backend);
    assert_eq!((spec.qos_limit, spec.clients, spec.node_selector.labels.len()), (Some(0), Clients::Host, 2));
    let BackendSpec::LocalPods(pods) = spec.backend else { panic!("{:?}", spec.backend) };
    assert_eq!(pods.namespace.as_deref(), Some("kube-system"));

    let mut policy = to_addresses();
    let spec = &mut policy["spec"];
    spec["config"] = json!({"enableOutCluster": false});
    spec["sessionAffinity"] = json!("ClientIP");
    spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 86400}});
    spec["onNoBackend"] = json!("Reject");
    spec["backend"]["addressEndpoint"]["addresses"] =
        json!(["::ffff:192.0.2.1", {"ip": "2001:db8::1", "weight": 0}]);
    let spec = valid(&policy);
    assert_eq!(
        (spec.out_cluster, spec.affinity, spec.on_no_backend),
        (false, Some(86400), Some(OnNoBackend::Reject))
    );
    let BackendSpec::Addresses { addresses, .. } = spec.backend else { panic!("{:?}", spec.backend) };
    let addresses: Vec<_> = addresses.iter().map(|a| (a.ip.to_string(), a.weight)).collect();
    assert_eq!(addresses, [("192.0.2.1".to_owned(), 1), ("2001:db8::1".to_owned(), 0)]);
}

#[test]
fn affinity_timeouts() {
    let affinity = |config: Value| {
        valid(&with(
            with(to_pods(), "/spec/sessionAffinity", json!("ClientIP")),
            "/spec/sessionAffinityConfig",
            config,
        ))
        .affinity
    };
    assert_eq!(affinity(Value::Null), Some(10800));
    assert_eq!(affinity(json!({})), Some(10800));
    assert_eq!(affinity(json!({"clientIP": {}})), Some(10800));
    assert_eq!(affinity(json!({"clientIP": {"timeoutSeconds": 1}})), Some(1));
    assert_eq!(valid(&with(to_pods(), "/spec/sessionAffinity", json!("None"))).affinity, None);
}

#[test]
fn null_counts_as_absent() {
    let mut policy = local();
    policy["metadata"]["creationTimestamp"] = Value::Null;
    policy["metadata"]["annotations"] = Value::Null;
    for field in ["enabled", "config", "skipRedirectFromBackend", "qosLimit", "clients"] {
        policy["spec"][field] = Value::Null;
    }
    policy["spec"]["frontend"]["serviceMatcher"] = Value::Null;
    assert_eq!(read(&policy).created, None);
    assert_eq!(valid(&policy), valid(&local()));
}

#[test]
fn ports_are_text_or_integers() {
    for port in [json!("1"), json!(1), json!("65535"), json!(65535)] {
        let spec = valid(&with(local(), "/spec/backend/toPorts/0/port", port.clone()));
        let BackendSpec::LocalPods(pods) = spec.backend else { panic!("{port}") };
        assert_eq!(json!(pods.ports[0].port.port).to_string(), port.to_string().trim_matches('"'));
    }
}

#[test]
fn target_ports_of_the_node_proxy() {
    let mut policy = with(to_pods(), "/spec/backend/serviceEndpoint/redirectMode", json!("nodeProxy"));
    for (value, target) in [
        (json!(8080), PortRef::Number(8080)),
        (json!("8080"), PortRef::Number(8080)),
        (json!("http-2"), PortRef::Name("http-2".into())),
    ] {
        policy["spec"]["backend"]["serviceEndpoint"]["toPorts"][0]["targetPort"] = value;
        let BackendSpec::Pods { pods, .. } = valid(&policy).backend else { panic!("{policy}") };
        assert_eq!(pods.ports[0].target, Some(target));
    }
}

#[test]
fn selectors() {
    let selector = json!({"matchExpressions": [
        {"key": "a", "operator": "In", "values": ["x", "y", "x"]},
        {"key": "b", "operator": "NotIn", "values": [""]},
        {"key": "example.org/c", "operator": "Exists"},
        {"key": "d_D.d", "operator": "DoesNotExist", "values": []},
    ]});
    let spec = valid(&with(local(), "/spec/backend/endpointSelector", selector));
    let BackendSpec::LocalPods(pods) = spec.backend else { panic!("{:?}", spec.backend) };
    let operators: Vec<_> = pods.selector.expressions.into_iter().map(|e| e.operator).collect();
    let values = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        operators,
        [
            LabelOperator::In(values(&["x", "y"])),
            LabelOperator::NotIn(values(&[""])),
            LabelOperator::Exists,
            LabelOperator::DoesNotExist
        ]
    );
}

#[test]
fn ports_that_the_controller_chose_are_taken_from_the_status() {
    let mut policy = to_pods();
    policy["spec"]["backend"]["serviceEndpoint"]["redirectMode"] = json!("nodeProxy");
    policy["spec"]["backend"]["serviceEndpoint"]["toPorts"] = json!([
        {"port": 0, "name": "http"}, {"port": "0", "name": "dns", "protocol": "UDP"}, {"port": 7, "name": "own"},
    ]);
    let ports = |policy: &Policy| -> Vec<(u16, bool)> {
        let BackendSpec::Pods { pods, .. } = &policy.spec.as_ref().unwrap().backend else {
            panic!("{policy:?}")
        };
        pods.ports.iter().map(|port| (port.port.port, port.automatic)).collect()
    };
    let without = read(&policy);
    assert!(without.lacks_ports());
    assert_eq!(ports(&without), [(0, true), (0, true), (7, false)]);
    policy["status"] = json!({"proxyPorts": [
        {"name": "http", "protocol": "TCP", "port": 20_000}, {"name": "dns", "protocol": "TCP", "port": 20_001},
        {"name": "own", "protocol": "TCP", "port": 20_002}, {"name": "dns", "protocol": "UDP", "port": 70_000}, 5,
    ]});
    let half = read(&policy);
    assert!(half.lacks_ports(), "the port of another protocol is none of its");
    assert_eq!(ports(&half), [(20_000, true), (0, true), (7, false)]);
    policy["status"]["proxyPorts"][3]["port"] = json!(20_003);
    let all = read(&policy);
    assert!(!all.lacks_ports());
    assert_eq!((ports(&all), all.proxy_ports.len()), (vec![(20_000, true), (20_003, true), (7, false)], 4));
}

#[test]
fn all_problems_are_found_at_once() {
    let policy = json!({
        "apiVersion": "balancing.elf.io/v1beta1",
        "kind": "LocalRedirectPolicy",
        "metadata": {"name": "p", "annotations": {"balancing.elf.io/serviceId": "0"}},
        "spec": {
            "enabled": "yes",
            "frontend": {"addressMatcher": {"ip": "10.0.0.0/8", "toPorts": [{"port": "080"}, {"port": 1, "protocol": "SCTP", "name": "A"}]}},
            "backend": {"endpointSelector": {"matchLabels": {"app": 5}}, "toPorts": []},
            "qosLimit": -1,
        },
    });
    let fields: Vec<_> = read(&policy).spec.unwrap_err().problems.into_iter().map(|p| p.field).collect();
    assert_eq!(
        fields,
        [
            "metadata.annotations[\"balancing.elf.io/serviceId\"]",
            "spec.enabled",
            "spec.frontend.addressMatcher.ip",
            "spec.frontend.addressMatcher.toPorts[0].port",
            "spec.frontend.addressMatcher.toPorts[0].name",
            "spec.frontend.addressMatcher.toPorts[1].protocol",
            "spec.frontend.addressMatcher.toPorts[1].name",
            "spec.backend.endpointSelector.matchLabels.app",
            "spec.backend.toPorts",
            "spec.qosLimit",
        ]
    );
}

#[test]
fn a_named_policy_is_an_object_whatever_its_spec() {
    for spec in [Value::Null, json!(5), json!([]), json!("x"), json!({})] {
        let policy = read(&with(local(), "/spec", spec.clone()));
        assert_eq!(policy.id.name, "p");
        assert!(!policy.spec.unwrap_err().problems.is_empty(), "{spec}");
    }
    assert_eq!(
        problems(
            &json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": "BalancingPolicy", "metadata": {"name": "p"}})
        ),
        ["spec: is required; add frontend and backend"]
    );
}
