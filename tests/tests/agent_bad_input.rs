//! Bad objects: each gets a message that names it, and everything else stays as it is.

use std::fs;

use balancing_tests::*;
use serde_json::{Value, json};

const FRONTEND: &str = "10.96.0.1:80";

/// A node with a good policy from the frontend to `local`.
struct World {
    node: Node,
    _servers: [EchoServer; 2],
}

impl World {
    fn new(topic: &str) -> Self {
        let node = Node::new(topic);
        let servers = [node.serve("original", &[FRONTEND]), node.serve("local", &["10.1.0.1:80"])];
        node.apply(&Object::pod("local", "local", &["10.1.0.1"]));
        node.apply(&good());
        Self { node, _servers: servers }
    }

    /// The good policy is in force, and the kernel has nothing else.
    #[track_caller]
    fn good_alone(&self) {
        assert_eq!(self.node.client().ask_tcp(address(FRONTEND)).as_deref(), Ok("local"));
        assert_eq!(self.node.layers().len(), 1, "{:?}", self.node.layers());
    }
}

fn good() -> Object {
    Object::local_redirect("good", "10.96.0.1", 80, "local")
}

#[track_caller]
fn answered_by(client: &mut Client, to: &str, wanted: &str) {
    eventually(|| match client.ask_tcp(address(to)) {
        Ok(name) if name == wanted => Ok(()),
        other => Err(format!("{to} is answered by {other:?}, not {wanted}")),
    });
}

#[test]
fn text_that_cannot_be_parsed_keeps_the_last_good_objects() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("unparsable");
    world.node.start();
    world.node.apply_text("good.json", "{\"kind\": ");
    world.node.apply_text("new.yaml", "kind: [");
    world.node.apply_text("binary.yml", "\u{0}");
    let view = world.node.wait_view(|view| view.source.problems.len() == 3);
    for (file, words) in [("good.json", "JSON"), ("new.yaml", "YAML"), ("binary.yml", "YAML")] {
        let line = view.source.problems.iter().find(|line| line.contains(file)).unwrap();
        assert!(line.contains(words) && line.contains("last objects of the file are kept"), "{line}");
    }
    assert!(view.ready, "it is the file that is broken, not the node");
    world.good_alone();
    let table = String::from_utf8(world.node.ctl(&["status"]).stdout).unwrap();
    assert!(table.contains("good.json: document 1 is not valid JSON"), "{table}");

    world.node.apply(&good().with("/spec/enabled", false));
    world.node.apply_text("new.yaml", "# nothing");
    fs::remove_file(world.node.objects().join("binary.yml")).unwrap();
    world.node.wait_view(|view| view.source.problems.is_empty());
    answered_by(&mut world.node.client(), FRONTEND, "original");
}

#[test]
fn every_broken_rule_is_named_and_hurts_nobody_else() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("rules");
    let local = || Object::local_redirect("p", "10.97.0.1", 80, "local");
    let pods = || Object::balancing("p", "10.97.0.1", 80, "local");
    let addresses = || Object::balancing_to("p", "10.97.0.1", 80, &["192.0.2.1", "192.0.2.2"]);
    let two_ports = |first: Value, second: Value| json!([first, second]);
    let port = "/spec/backend/toPorts/0/port";
    let front = "/spec/frontend/addressMatcher";
    let rules: Vec<(Object, &str)> = vec![
        (local().with("/spec", Value::Null), "spec: is required"),
        (local().with("/spec/enabled", "yes"), "spec.enabled: must be true or false"),
        (local().with("/spec/surprise", 1), "spec.surprise: unknown field"),
        (
            local().with("/spec/config/enableOutCluster", true),
            "spec.config.enableOutCluster: unknown field here",
        ),
        (
            local().with("/spec/config/nodeLabelSelector/matchLabels/a", 5),
            "spec.config.nodeLabelSelector.matchLabels.a: must be",
        ),
        (local().with("/spec/frontend", json!({})), "spec.frontend: must have exactly one of"),
        (
            local().with("/spec/frontend/serviceMatcher", json!({"serviceName": "s", "namespace": "n"})),
            "spec.frontend: must have exactly one of addressMatcher and serviceMatcher, found both",
        ),
        (
            local().for_service("s").with("/spec/frontend/serviceMatcher/namespace", Value::Null),
            "serviceMatcher.namespace: is required",
        ),
        (
            local().with(&format!("{front}/ip"), "10.0.0.0/8"),
            "addressMatcher.ip: must be a single IP address",
        ),
        (
            local().with(&format!("{front}/ip"), "fe80::1%eth0"),
            "addressMatcher.ip: must be an IP address without a zone",
        ),
        (local().with(&format!("{front}/ip"), "0.0.0.0"), "addressMatcher.ip: must not be the unspecified"),
        (local().with(&format!("{front}/ip"), "224.0.0.1"), "addressMatcher.ip: must not be a multicast"),
        (local().with(&format!("{front}/ip"), "one"), "addressMatcher.ip: must be an IP address"),
        (
            local().with(&format!("{front}/toPorts"), json!([])),
            "addressMatcher.toPorts: must have at least 1 port",
        ),
        (local().with(port, "0"), "spec.backend.toPorts[0].port: must be a port from 1 to 65535"),
        (local().with(port, 65536), "spec.backend.toPorts[0].port: must be a port"),
        (local().with(port, "080"), "spec.backend.toPorts[0].port: must be a port"),
        (local().with(port, "+80"), "spec.backend.toPorts[0].port: must be a port"),
        (local().with(port, " 80"), "spec.backend.toPorts[0].port: must be a port"),
        (local().with(port, "http"), "spec.backend.toPorts[0].port: must be a port"),
        (local().with("/spec/backend/toPorts/0/protocol", "SCTP"), "toPorts[0].protocol: must be TCP or UDP"),
        (
            local().with("/spec/backend/toPorts/0/protocol", "UDP"),
            "toPorts[0].protocol: must be the protocol of the only frontend port",
        ),
        (
            local().with("/spec/backend/toPorts/0/name", "HTTP"),
            "toPorts[0].name: must be a lower-case IANA service name",
        ),
        (
            local().with(
                "/spec/backend/toPorts",
                two_ports(json!({"port": 80}), json!({"port": 81, "name": "b"})),
            ),
            "toPorts[0].name: is required as soon as a list has two ports",
        ),
        (
            local().with(
                "/spec/backend/toPorts",
                two_ports(json!({"port": 80, "name": "a"}), json!({"port": 81, "name": "a"})),
            ),
            "toPorts[1].name: must be unique in the list",
        ),
        (
            local().with("/spec/backend/endpointSelector", Value::Null),
            "spec.backend.endpointSelector: is required",
        ),
        (local().with("/spec/backend/toPorts", json!([])), "spec.backend.toPorts: must have at least 1 port"),
        (local().with("/spec/backend/namespace", 5), "spec.backend.namespace: must be"),
        (
            local().with("/spec/backend/redirectMode", "hostPort"),
            "spec.backend.redirectMode: unknown field here",
        ),
        (
            local().with("/spec/skipRedirectFromBackend", "true"),
            "spec.skipRedirectFromBackend: must be true or false",
        ),
        (local().with("/spec/qosLimit", -1), "spec.qosLimit: must be an integer from 0"),
        (local().with("/spec/qosLimit", "100"), "spec.qosLimit: must be an integer"),
        (local().with("/spec/clients", "Pods"), "spec.clients: must be one of all, pods, host"),
        (local().with("/spec/sessionAffinity", "None"), "spec.sessionAffinity: unknown field here"),
        (
            local().annotated("balancing.elf.io/serviceId", "0"),
            "balancing.elf.io/serviceId\"]: must be a number from 1",
        ),
        (local().annotated("balancing.elf.io/serviceId", "4294967296"), "serviceId\"]: must be a number"),
        (
            local().with("/metadata/creationTimestamp", "yesterday"),
            "metadata.creationTimestamp: must be an RFC 3339 time",
        ),
        (pods().with("/spec/backend", json!({})), "spec.backend: must have exactly one of serviceEndpoint"),
        (
            pods().with(
                "/spec/backend/addressEndpoint",
                json!({"addresses": ["192.0.2.1"], "toPorts": [{"port": 1}]}),
            ),
            "found both",
        ),
        (
            pods().with("/spec/backend/serviceEndpoint/redirectMode", "nodePort"),
            "redirectMode: must be one of podEndpoint, hostPort, nodeProxy",
        ),
        (
            pods().with("/spec/qosLimit", 1),
            "spec.qosLimit: unknown field here, it belongs to LocalRedirectPolicy",
        ),
        (pods().with("/spec/onNoBackend", "reject"), "spec.onNoBackend: must be one of Fallback, Reject"),
        (
            pods().with("/spec/sessionAffinity", "Cookie"),
            "spec.sessionAffinity: must be one of None, ClientIP",
        ),
        (
            pods().with("/spec/sessionAffinityConfig/clientIP/timeoutSeconds", 5),
            "spec.sessionAffinityConfig: is only allowed with sessionAffinity: ClientIP",
        ),
        (
            pods()
                .with("/spec/sessionAffinity", "ClientIP")
                .with("/spec/sessionAffinityConfig/clientIP/timeoutSeconds", 0),
            "timeoutSeconds: must be an integer from 1",
        ),
        (
            addresses().with("/spec/backend/addressEndpoint/addresses", json!([])),
            "addressEndpoint.addresses: must have at least one",
        ),
        (
            addresses().with("/spec/backend/addressEndpoint/addresses/1", "192.0.2.1"),
            "addresses[1]: must differ",
        ),
        (
            addresses()
                .with("/spec/backend/addressEndpoint/addresses/0", json!({"ip": "192.0.2.1", "weight": 101})),
            "addresses[0].weight: must be an integer from 0 to 100",
        ),
        (
            addresses().with("/spec/backend/addressEndpoint/healthCheck", json!({})),
            "healthCheck: unknown field here",
        ),
    ];
    for (number, (policy, _)) in rules.iter().enumerate() {
        world.node.apply(&policy.clone().with("/metadata/name", format!("rule-{number}")));
    }
    world.node.apply(&local().with("/metadata/name", "Bad_Name"));
    world.node.start();
    let policies = world.node.ctl_json(&["policies"]);
    let row = |name: &str| policies.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    for (number, (_, wanted)) in rules.iter().enumerate() {
        let row = row(&format!("rule-{number}"));
        let message = row["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{wanted} is not in: {message}");
        assert_eq!((&row["accepted"], &row["programmed"]), (&json!(false), &json!(false)), "{row}");
        assert_eq!((&row["reason"], &row["frontends"]), (&json!("InvalidSpec"), &json!([])), "{row}");
    }
    assert!(row("Bad_Name")["message"].as_str().unwrap().contains("metadata.name: must be"));
    assert_eq!(row("good")["programmed"], json!(true));
    assert_eq!(policies.as_array().unwrap().len(), rules.len() + 2);
    world.good_alone();
}

#[test]
fn references_that_lead_nowhere_are_named() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("references");
    let policy = |name: &str| Object::local_redirect(name, "10.97.0.1", 80, "local").for_service(name);
    let headless = Object::service("headless", &["None"], &[("http", 80)]);
    let external = Object::service("external", &[], &[("http", 80)]).with("/spec/type", "ExternalName");
    let other_port = Object::service("other-port", &["10.97.0.2"], &[("http", 8080)]);
    let ports = json!([{"port": 80}]);
    for object in [&headless, &external, &other_port] {
        world.node.apply(&object.clone().with("/metadata/name", object.name()));
    }
    // Services and policies of one name are different files.
    for name in ["missing", "headless", "external", "other-port"] {
        let policy = policy(name).with("/spec/frontend/serviceMatcher/toPorts", ports.clone());
        world.node.apply_text(&format!("policy-{name}.json"), &policy.json());
    }
    world.node.start();
    for (name, reason, words) in [
        (
            "missing",
            "ServiceNotFound",
            "Service default/missing does not exist; create it or correct the name",
        ),
        ("headless", "UnsupportedService", "Service default/headless is headless: it has no ClusterIP"),
        ("external", "UnsupportedService", "Service default/external is an ExternalName"),
        ("other-port", "PortsNotPaired", "ports that the Service does not have: 80/TCP"),
    ] {
        let view = world.node.wait_policy(name, |policy| !policy.resolved_refs);
        assert!(view.reason == reason && view.message.contains(words), "{view:?}");
        assert!(view.accepted && !view.programmed, "{view:?}");
    }
    world.good_alone();
    let service = Object::service("missing", &["10.97.0.3"], &[("http", 80)]);
    world.node.apply(&service);
    world.node.wait_policy("missing", |policy| policy.programmed && policy.resolved_refs);
}

#[test]
fn an_address_that_is_a_cluster_ip_belongs_to_the_policy() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("cluster-ip");
    let _other = world.node.serve("other", &["10.1.0.2:80"]);
    world.node.apply(&Object::service("web", &["10.96.0.1"], &[("http", 80)]));
    world.node.apply(&Object::pod("other", "other", &["10.1.0.2"]));
    // Beside the address, the same kind of policy by name of the Service, younger.
    world.node.apply(&good().created(1));
    let by_service = Object::local_redirect("a-by-service", "", 80, "other").for_service("web");
    world.node.apply(&by_service.clone().created(2));
    world.node.start();
    let mut client = world.node.client();
    answered_by(&mut client, FRONTEND, "local");
    world
        .node
        .wait_policy("a-by-service", |policy| policy.conflicted && policy.conflicts_with[0].name == "good");
    // The other way round.
    world.node.apply(&by_service.created(0));
    answered_by(&mut client, FRONTEND, "other");
    world.node.wait_policy("good", |policy| policy.conflicted);
}

#[test]
fn two_policies_on_one_frontend_end_the_same_in_both_orders() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("orders");
    world.node.start();
    let policies = ["a", "b"].map(|name| Object::local_redirect(name, "10.97.0.1", 80, "local").created(5));
    for order in [[0, 1], [1, 0]] {
        for at in order {
            world.node.apply(&policies[at]);
            world.node.wait_policy(policies[at].name(), |policy| policy.accepted);
        }
        let loser = world.node.wait_policy("b", |policy| policy.conflicted);
        let words = "belong to LocalRedirectPolicy a, which has the smaller name";
        assert!(loser.message.contains(words), "{}", loser.message);
        world.node.wait_policy("a", |policy| policy.programmed && !policy.conflicted);
        for policy in &policies {
            world.node.delete(policy);
        }
        eventually(|| match world.node.policies().len() {
            1 => Ok(()),
            more => Err(format!("{more} policies")),
        });
        world.good_alone();
    }
}

#[test]
fn pods_without_an_address_or_a_family() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("families");
    world.node.apply(&Object::pod("naked", "local", &[]));
    world.node.apply(&Object::pod("odd", "local", &["10.1.0.999"]));
    let _v6 = world.node.serve("v6", &["[fd00:1::1]:80", "[fd00:96::7]:80"]);
    world.node.apply(&Object::service("dual", &["10.96.0.7", "fd00:96::7"], &[("http", 80)]));
    let dual = Object::local_redirect("dual-policy", "", 80, "local").for_service("dual");
    world.node.apply(&dual);
    world.node.start();
    let mut client = world.node.client();
    assert_eq!(client.ask_tcp(address("10.96.0.7:80")).as_deref(), Ok("local"));
    assert_eq!(client.ask_tcp(address("[fd00:96::7]:80")).as_deref(), Ok("v6"), "where it was dialled");
    let view = world.node.wait_backends("dual-policy", 1);
    assert!(view.message.contains("no backend for the IPv6 frontends"), "{}", view.message);
    let problems = world.node.view().unwrap().source.problems;
    let words =
        "Pod default/odd: status.podIPs[0].ip: must be an IP address, found \"10.1.0.999\"; it is left out";
    assert!(problems.len() == 1 && problems[0].contains(words), "{problems:?}");
    world.node.apply(&Object::pod("naked", "local", &["fd00:1::1"]));
    world.node.wait_backends("dual-policy", 2);
    assert_eq!(client.ask_tcp(address("[fd00:96::7]:80")).as_deref(), Ok("v6"));
    let layers = world.node.layers();
    assert!(layers.iter().all(|layer| layer.layer.backends.len() == 1), "one of each family: {layers:?}");
}

#[test]
fn a_directory_that_vanishes_takes_nothing_with_it() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("vanish");
    world.node.start();
    let (here, away) = (world.node.objects().to_owned(), world.node.run_dir().join("away"));
    fs::rename(&here, &away).unwrap();
    let view = world.node.wait_view(|view| !view.source.problems.is_empty());
    assert!(view.source.problems[0].contains(here.to_str().unwrap()), "{view:?}");
    world.good_alone();
    // An agent that starts now waits, and keeps what an earlier one has programmed.
    world.node.agent().kill();
    world.node.start_until(|view| !view.ready && !view.source.problems.is_empty());
    world.good_alone();
    fs::remove_file(away.join("good.json")).unwrap();
    fs::rename(&away, &here).unwrap();
    world.node.wait_view(|view| view.ready && view.source.problems.is_empty());
    answered_by(&mut world.node.client(), FRONTEND, "original");
}
