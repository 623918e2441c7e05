//! Single rules. Whole manifests are in `agent/tests/convert.rs`.

use serde_json::{Value, json};

use super::{Conversion, Input, Level, convert, yaml};
use balancing_core::manifest::Format;

fn run(text: &str) -> Conversion {
    convert(&[Input { name: "t", text, format: Format::Json }], None)
}

/// A policy of Cilium in namespace `ns` with these ports.
fn clrp(matcher: &Value, backend_ports: &Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumLocalRedirectPolicy",
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {
            "redirectFrontend": matcher,
            "redirectBackend": {"localEndpointSelector": {}, "toPorts": backend_ports},
        },
    })
}

fn address(ports: &Value) -> Value {
    json!({"addressMatcher": {"ip": "192.0.2.1", "toPorts": ports}})
}

fn port(port: &str, protocol: &str, name: &str) -> Value {
    json!({"port": port, "protocol": protocol, "name": name})
}

/// What was reported at this level, as `field: message`.
fn said(conversion: &Conversion, level: Level) -> Vec<String> {
    let notes = conversion.notes.iter().filter(|note| note.level == level);
    notes.map(|note| format!("{}: {}", note.field, note.message)).collect()
}

fn set(tree: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    tree.pointer_mut(parent).unwrap()[field] = value;
}

#[test]
fn cilium_reads_a_leading_zero_as_octal() {
    for (port, becomes) in [("010", Some("8")), ("0177777", Some("65535")), ("80", Some("80"))] {
        let out =
            run(&clrp(&address(&json!([{"port": port, "protocol": "TCP"}])), &json!([{"port": "1"}]))
                .to_string());
        let found = out.objects[0].pointer("/spec/frontend/addressMatcher/toPorts/0/port");
        assert_eq!(found.and_then(Value::as_str), becomes, "{port}");
        assert_eq!(out.has(Level::Warning), port.starts_with('0'), "{port}");
    }
    for port in ["0", "00", "08", "0200000", "0x10", "-1", "+1", " 1", "65536", ""] {
        let out =
            run(&clrp(&address(&json!([{"port": port, "protocol": "TCP"}])), &json!([{"port": "1"}]))
                .to_string());
        assert!(out.objects.is_empty(), "{port}");
        let errors = said(&out, Level::Error);
        assert!(
            errors.iter().any(
                |e| e.starts_with("spec.redirectFrontend.addressMatcher.toPorts[0].port: must be a port")
            ),
            "{port}: {errors:?}"
        );
    }
}

#[test]
fn every_port_that_ciliums_pattern_refuses_is_converted() {
    for number in [60_000, 60_999, 65_000, 65_509, 65_530, 65_535] {
        let ports = json!([{"port": number.to_string(), "protocol": "UDP"}]);
        let out = run(&clrp(&address(&ports), &ports).to_string());
        assert_eq!((out.objects.len(), out.has(Level::Warning)), (1, false), "{number}: {:?}", out.notes);
    }
}

#[test]
fn a_single_frontend_port_keeps_one_backend_port() {
    let (tcp, udp) = (port("53", "TCP", "dns-tcp"), port("53", "UDP", "dns"));
    let other = port("54", "UDP", "other");
    let unnamed = json!([{"port": "53", "protocol": "UDP"}]);
    let service = json!({"serviceMatcher": {"serviceName": "s", "namespace": "ns", "toPorts": unnamed}});
    // Frontend, backend ports; which stay, whether a warning says so.
    let cases = [
        (address(&unnamed), json!([udp, tcp]), Some(json!([udp])), true),
        (service, json!([udp, tcp]), Some(json!([udp])), true),
        (address(&json!([other])), json!([udp, other]), Some(json!([udp, other])), true),
        // Cilium compares the protocol with that of the first port and refuses the policy.
        (address(&unnamed), json!([tcp, udp]), None, false),
    ];
    for (frontend, backend, kept, warned) in cases {
        let out = run(&clrp(&frontend, &backend).to_string());
        let found = out.objects.first().and_then(|o| o.pointer("/spec/backend/toPorts"));
        assert_eq!(found, kept.as_ref(), "{frontend} {backend}: {:?}", out.notes);
        assert_eq!(!said(&out, Level::Warning).is_empty(), warned, "{:?}", out.notes);
    }
}

#[test]
fn names_that_nobody_reads_are_no_obstacle() {
    let out =
        run(&clrp(&address(&json!([port("80", "TCP", "a_b")])), &json!([port("81", "TCP", "1!!")]))
            .to_string());
    assert_eq!(
        out.objects[0]["spec"]["frontend"]["addressMatcher"]["toPorts"],
        json!([{"port": "80", "protocol": "TCP"}])
    );
    assert_eq!(out.objects[0]["spec"]["backend"]["toPorts"], json!([{"port": "81", "protocol": "TCP"}]));
    assert!(!out.has(Level::Warning), "{:?}", out.notes);
    // With two ports they are read, and Cilium refuses them too.
    let two = json!([port("80", "TCP", "a_b"), port("81", "TCP", "b")]);
    let out = run(&clrp(&address(&two), &two).to_string());
    assert!(
        out.objects.is_empty() && said(&out, Level::Error)[0].contains("toPorts[0].name"),
        "{:?}",
        out.notes
    );
}

#[test]
fn namespaces() {
    let service = |namespace: &str| json!({"serviceMatcher": {"serviceName": "s", "namespace": namespace}});
    let without = |matcher: Value| {
        let mut tree = clrp(&matcher, &json!([{"port": "1", "protocol": "TCP"}]));
        tree["metadata"].as_object_mut().unwrap().remove("namespace");
        tree.to_string()
    };
    let convert_in =
        |text: &str, namespace| convert(&[Input { name: "t", text, format: Format::Json }], namespace);
    // Text, --namespace; the namespace, whether it is a guess.
    for (text, given, namespace, guessed) in [
        (without(address(&json!([{"port": "1"}]))), None, "default", true),
        (without(address(&json!([{"port": "1"}]))), Some("edge"), "edge", false),
        (without(service("kube-system")), None, "kube-system", false),
    ] {
        let out = convert_in(&text, given);
        assert_eq!(out.objects[0]["metadata"]["name"], format!("{namespace}.p"));
        assert_eq!(out.objects[0]["spec"]["backend"]["namespace"], namespace);
        assert_eq!(out.has(Level::Warning), guessed, "{:?}", out.notes);
    }
    assert!(convert_in(&without(service("a")), Some("b")).objects.is_empty());
    assert!(convert_in(&without(service("a")), Some("B")).objects.is_empty());
}

#[test]
fn names_stay_distinct_and_short_enough() {
    let mut tree = clrp(&address(&json!([{"port": "1"}])), &json!([{"port": "1"}]));
    set(&mut tree, "/metadata/name", json!("a".repeat(250)));
    let out = run(&tree.to_string());
    assert_eq!(out.objects.len(), 1, "{:?}", out.notes);
    set(&mut tree, "/metadata/name", json!("a".repeat(251)));
    let out = run(&tree.to_string());
    assert!(out.objects.is_empty() && said(&out, Level::Error)[0].starts_with("metadata.name: is too long"));
}

#[test]
fn a_description_never_replaces_an_annotation() {
    let mut tree = clrp(&address(&json!([{"port": "1"}])), &json!([{"port": "1"}]));
    set(&mut tree, "/spec/description", json!("new"));
    assert_eq!(
        run(&tree.to_string()).objects[0]["metadata"]["annotations"]["kubernetes.io/description"],
        "new"
    );
    set(&mut tree, "/metadata/annotations", json!({"kubernetes.io/description": "old"}));
    let out = run(&tree.to_string());
    assert_eq!(out.objects[0]["metadata"]["annotations"]["kubernetes.io/description"], "old");
    assert!(said(&out, Level::Warning)[0].starts_with("spec.description: "), "{:?}", out.notes);
}

#[test]
fn what_is_no_manifest_does_not_hide_the_others() {
    let good = clrp(&address(&json!([{"port": "1"}])), &json!([{"port": "1"}])).to_string();
    let inputs = [
        Input { name: "bad", text: "a: [", format: Format::Yaml },
        Input { name: "good", text: &good, format: Format::Json },
        Input { name: "odd", text: "[1]\n---\nmetadata: {}\n", format: Format::Yaml },
    ];
    let out = convert(&inputs, None);
    assert_eq!(out.objects.len(), 1);
    let sources: Vec<_> =
        out.notes.iter().filter(|n| n.level == Level::Error).map(|n| n.source.as_str()).collect();
    assert_eq!(sources, ["bad", "odd", "odd"]);
}

#[test]
fn the_same_object_twice_is_one() {
    let tree = clrp(&address(&json!([{"port": "1"}])), &json!([{"port": "1"}]));
    let out = run(&format!("{tree}{tree}"));
    assert_eq!((out.objects.len(), out.has(Level::Warning)), (1, false), "{:?}", out.notes);
    let mut other = tree.clone();
    set(&mut other, "/spec/skipRedirectFromBackend", json!(true));
    let out = run(&format!("{tree}{other}"));
    assert_eq!((out.objects.len(), out.has(Level::Error)), (1, true), "{:?}", out.notes);
}

#[test]
fn the_order_of_the_inputs_does_not_matter() {
    let with_name = |name: &str| {
        let mut tree = clrp(&address(&json!([{"port": "1"}])), &json!([{"port": "1"}]));
        set(&mut tree, "/metadata/name", json!(name));
        tree
    };
    let own = run(&with_name("b").to_string()).objects.remove(0);
    let (a, c) = (with_name("a"), with_name("c"));
    let one = run(&format!("{a}{own}{c}"));
    let other = run(&format!("{c}{a}{own}"));
    assert_eq!(one.objects.len(), 3);
    assert_eq!(one.to_yaml(), other.to_yaml());
}

#[test]
fn yaml_means_the_same_to_old_and_new_readers() {
    let tree = json!({
        "on": "off", "n": ["Y", "NO", "~", "null", "1_0", "0o7", "12:30", "=", "<<", "2026-01-31", ".inf"],
        "text": ["", " a", "a ", "a: b", "#", "-", "a\nb\t\"\\", "é\u{85}\u{feff}\u{7f}", "ok/x-y_z.0", "True"],
        "nested": {"list": [[1, []], {"a": {}, "b": [true, null]}], "empty": {}},
    });
    let text = yaml::document(&tree);
    let read: Value = yaml_serde::from_str(&text).unwrap();
    assert_eq!(read, tree, "{text}");
    for quoted in
        ["\"on\": \"off\"", "\"n\":\n", "- \"Y\"", "- \"1_0\"", "- \"12:30\"", "- \"2026-01-31\"", "- \"=\""]
    {
        assert!(text.contains(quoted), "{quoted} in {text}");
    }
    assert!(text.contains("- ok/x-y_z.0\n") && text.contains("empty: {}\n") && text.is_ascii(), "{text}");
}
