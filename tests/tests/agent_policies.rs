//! Policies among themselves, through the real agent: precedence, conflicts, limits, changes that make a
//! policy invalid.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use balancing_core::view::PolicyView;
use balancing_tests::*;
use serde_json::json;

const FRONTEND: &str = "10.96.0.1:80";

/// A node with servers: `original` at the frontend, `local` and `remote` for pods of this and another node.
struct World {
    node: Node,
    pods: [Object; 2],
    _servers: [EchoServer; 3],
}

impl World {
    fn new(topic: &str) -> Self {
        Self::with(Node::new(topic))
    }

    fn with(node: Node) -> Self {
        let servers = [("original", FRONTEND), ("local", "10.1.0.1:80"), ("remote", "10.1.0.2:80")];
        let servers = servers.map(|(name, at)| node.serve(name, &[at]));
        let local = Object::pod("local", "local", &["10.1.0.1"]);
        let remote = Object::pod("remote", "remote", &["10.1.0.2"]).with("/spec/nodeName", "n2");
        Self { node, pods: [local, remote], _servers: servers }
    }

    fn apply(&self, objects: &[Object]) {
        objects.iter().chain(&self.pods).for_each(|object| self.node.apply(object));
    }
}

fn local() -> Object {
    Object::local_redirect("local-policy", "10.96.0.1", 80, "local")
}

fn balancing() -> Object {
    Object::balancing("global-policy", "10.96.0.1", 80, "remote")
}

#[track_caller]
fn answered_by(client: &mut Client, wanted: &str) {
    eventually(|| match client.ask_tcp(address(FRONTEND)) {
        Ok(name) if name == wanted => Ok(()),
        other => Err(format!("answered by {other:?}, not {wanted}")),
    });
}

/// Connects 50 times. Returns how many `local` answered; they must be as many as the limit allows in the
/// seconds that it took.
#[track_caller]
fn count(client: &mut Client, limit: usize) -> usize {
    let began = monotonic_second();
    let names = (0..50).map(|_| client.ask_tcp(address(FRONTEND)).unwrap());
    let local = names.filter(|name| name == "local").count();
    let seconds = usize::try_from(monotonic_second() - began).unwrap() + 1;
    assert!(
        (limit..=limit * seconds).contains(&local),
        "{local} of 50 redirected in {seconds} seconds, limit {limit}"
    );
    local
}

#[test]
fn local_redirect_lies_over_balancing() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("layers");
    world.apply(&[local(), balancing()]);
    world.node.start();
    let mut client = world.node.client();
    answered_by(&mut client, "local");
    let layers = world.node.layers();
    let numbers: Vec<u8> = layers.iter().map(|layer| layer.layer_number).collect();
    assert_eq!(numbers, [0, 1], "both layers are in the table");
    assert!(world.node.policies().iter().all(|policy| policy.programmed && !policy.conflicted));

    world.node.apply(&world.pods[0].clone().unready());
    answered_by(&mut client, "remote");
    world.node.delete(&balancing());
    answered_by(&mut client, "original");
    world.node.apply(&world.pods[0]);
    answered_by(&mut client, "local");

    // At the limit the BalancingPolicy takes what the LocalRedirectPolicy does not.
    world.node.apply(&balancing());
    world.node.apply(&local().with("/spec/qosLimit", 3));
    world.node.wait_backends("global-policy", 1);
    eventually(|| match world.node.layers().first().and_then(|layer| layer.layer.qos_limit) {
        Some(limit) if limit.get() == 3 => Ok(()),
        other => Err(format!("the limit is {other:?}")),
    });
    next_second();
    let rest = 50 - count(&mut client, 3);
    let counters = &world.node.ctl_json(&["frontends"])[1]["counters"];
    assert!(counters["redirected"].as_u64().unwrap() >= rest as u64, "the rest goes on: {counters}");
    let explain = world.node.ctl_json(&["explain", FRONTEND]);
    assert_eq!(explain["winner"]["name"], json!("local-policy"), "{explain}");
}

#[test]
fn the_older_policy_wins_and_the_younger_takes_over() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("conflict");
    let older = local().with("/metadata/name", "older").created(1);
    let younger = Object::local_redirect("a-younger", "10.96.0.1", 80, "second").created(2);
    let _second = world.node.serve("second", &["10.1.0.3:80"]);
    let second = Object::pod("second", "second", &["10.1.0.3"]);
    world.apply(&[older.clone(), younger.clone(), second.clone()]);
    world.node.start();
    let mut client = world.node.client();
    answered_by(&mut client, "local");
    let policies = world.node.ctl_json(&["policies"]);
    let loser = policies.as_array().unwrap().iter().find(|row| row["name"] == "a-younger").unwrap();
    assert_eq!((&loser["conflicted"], &loser["programmed"]), (&json!(true), &json!(false)));
    assert_eq!(loser["conflictsWith"], json!([{"kind": "LocalRedirectPolicy", "name": "older"}]));
    let message = loser["message"].as_str().unwrap();
    assert!(message.contains("older LocalRedirectPolicy older: 10.96.0.1:80/TCP"), "{message}");
    let table = world.node.ctl(&["policies"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("older LocalRedirectPolicy older"));

    // The winner keeps the frontend without a backend too.
    world.node.apply(&world.pods[0].clone().unready());
    answered_by(&mut client, "original");
    world.node.delete(&older);
    answered_by(&mut client, "second");
    world.node.wait_policy("a-younger", |policy| !policy.conflicted && policy.programmed);

    // And loses again when an older one comes, whatever the order in which they came.
    world.apply(&[older]);
    answered_by(&mut client, "local");
    world.node.wait_policy("a-younger", |policy| policy.conflicted);
}

#[test]
fn one_service_id_belongs_to_one_policy() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("ids");
    let id = |object: Object| object.annotated("balancing.elf.io/serviceId", "7");
    let second = Object::local_redirect("second", "10.96.0.2", 80, "local").created(2);
    world.apply(&[id(local().created(1)), id(second.clone())]);
    world.node.start();
    let loser = world.node.wait_policy("second", |policy| policy.conflicted);
    let wanted = "its service id 7 belongs to the older LocalRedirectPolicy local-policy; choose another";
    assert!(loser.message.contains(wanted), "{}", loser.message);
    assert_eq!(world.node.layers().len(), 1);
    world.node.apply(&second.annotated("balancing.elf.io/serviceId", "8"));
    world.node.wait_policy("second", |policy| policy.programmed && policy.service_id == 8);
}

#[test]
fn an_update_that_breaks_a_policy_ends_its_redirect() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("invalid");
    let other = Object::local_redirect("other", "10.96.0.2", 80, "local");
    world.apply(&[local(), other]);
    world.node.start();
    let mut client = world.node.client();
    answered_by(&mut client, "local");
    world.node.apply(&local().with("/spec/backend/toPorts/0/port", "http"));
    answered_by(&mut client, "original");
    let view = world.node.wait_policy("local-policy", |policy| !policy.accepted);
    assert_eq!((view.reason.as_str(), view.programmed), ("InvalidSpec", false));
    let wanted = "spec.backend.toPorts[0].port: must be a port from 1 to 65535, found \"http\"";
    assert!(view.message.contains(wanted), "{}", view.message);
    assert_eq!(client.ask_tcp(address("10.96.0.2:80")).as_deref(), Ok("local"), "the other policy stays");
    world.node.apply(&local());
    answered_by(&mut client, "local");

    // Inert is not invalid.
    world.node.apply(&local().with("/spec/enabled", false));
    answered_by(&mut client, "original");
    let accepted = |policy: &PolicyView| policy.accepted && policy.reason == "Disabled";
    world.node.wait_policy("local-policy", accepted);
}

#[test]
fn any_field_may_change_while_the_policy_is_in_force() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("updates");
    let _other = world.node.serve("other-port", &["10.1.0.1:8080", "10.96.0.9:80"]);
    world.apply(&[local()]);
    world.node.start();
    let mut client = world.node.client();
    answered_by(&mut client, "local");
    world.node.apply(&local().with("/spec/backend/toPorts/0/port", 8080));
    answered_by(&mut client, "other-port");
    world.node.apply(&local().with("/spec/frontend/addressMatcher/ip", "10.96.0.9"));
    answered_by(&mut client, "original");
    assert_eq!(client.ask_tcp(address("10.96.0.9:80")).as_deref(), Ok("local"));
    world.node.apply(&local().with("/spec/clients", "pods"));
    world.node.wait_policy("local-policy", |policy| policy.frontends[0].address == address(FRONTEND).ip());
    answered_by(&mut client, "original");
    let selector = json!({"nodeLabelSelector": {"matchLabels": {"zone": "a"}}});
    world.node.apply(&local().with("/spec/config", selector));
    world.node.wait_policy("local-policy", |policy| policy.reason == "NotSelected");
    world.node.apply(&Object::node("n1", "192.0.2.1").with("/metadata/labels/zone", "a"));
    answered_by(&mut client, "local");
}

#[test]
fn a_limit_by_flag_by_environment_and_by_policy() {
    if !require_kernel() {
        return;
    }
    let by_flag = Node::with("qos-flag", &["--redirect-qos-limit", "5"]);
    let by_environment = Node::new("qos-env").env("REDIRECT_QOS_LIMIT", "5");
    for node in [by_flag, by_environment] {
        let mut world = World::with(node);
        world.apply(&[local()]);
        world.node.start();
        let mut client = world.node.client();
        let redirected = count(&mut client, 5);
        let counters = &world.node.ctl_json(&["frontends"])[0]["counters"];
        assert_eq!(counters["redirected"], json!(redirected));
        assert_eq!(counters["qosOverflow"], json!(50 - redirected));

        // The policy's own limit counts, at once and live; 0 is none.
        for (limit, wanted) in [(20, 20), (0, 50)] {
            world.node.apply(&local().with("/spec/qosLimit", limit));
            eventually(|| {
                let now = world.node.layers()[0].layer.qos_limit.map_or(0, |limit| limit.get());
                if now == limit { Ok(()) } else { Err(format!("the limit is {now}")) }
            });
            next_second();
            count(&mut client, wanted);
        }
    }
}

/// Waits until nothing has been counted in the present second.
fn next_second() {
    let before = monotonic_second();
    eventually(|| if monotonic_second() > before { Ok(()) } else { Err("the same second".to_owned()) });
}

/// The second in which the kernel counts.
fn monotonic_second() -> u64 {
    monotonic_ns() / 1_000_000_000
}

#[test]
fn without_a_backend_a_virtual_address_refuses_and_a_service_falls_back() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("reject");
    let service = Object::service("web", &["10.96.0.1"], &[("http", 80)]);
    let by_service = balancing().with("/metadata/name", "by-service").for_service("web");
    let by_address = Object::balancing("by-address", "169.254.0.7", 80, "remote");
    world.apply(&[service, by_service.clone(), by_address.clone()]);
    world.node.apply(&world.pods[1].clone().unready());
    world.node.start();
    let mut client = world.node.client();
    answered_by(&mut client, "original");
    assert_eq!(client.ask_tcp(address("169.254.0.7:80")), Err(dataplane::refusal()));
    world.node.apply(&by_service.with("/spec/onNoBackend", "Reject"));
    world.node.apply(&by_address.with("/spec/onNoBackend", "Fallback"));
    eventually(|| match client.ask_tcp(address(FRONTEND)) {
        Err(errno) if errno == dataplane::refusal() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually(|| match client.ask_tcp(address("169.254.0.7:80")) {
        Err(Errno::ENETUNREACH) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Whoever may edit a Service does not get the connections to the addresses of others.
#[test]
fn external_addresses_of_others_are_left_alone() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("external");
    let _servers = [
        node.serve("stolen", &["10.1.0.1:80"]),
        node.serve("dialled", &["10.96.0.10:80", "192.0.2.2:80", "203.0.113.7:80"]),
    ];
    let web = Object::service("web", &["10.96.0.20"], &[("http", 80)])
        .with("/spec/externalIPs", json!(["10.96.0.10", "203.0.113.7", "::ffff:192.0.2.2", "127.0.0.1"]));
    node.apply(&web);
    node.apply(&Object::service("kube-dns", &["10.96.0.10"], &[("http", 80)]));
    node.apply(&Object::node("n2", "192.0.2.2"));
    node.apply(&Object::balancing_to("p", "::", 80, &["10.1.0.1"]).for_service("web"));
    node.start();
    let mut client = node.client();
    let mut asks = |at: &str, wanted: &str| {
        eventually(|| match client.ask_tcp(address(at)) {
            Ok(name) if name == wanted => Ok(()),
            other => Err(format!("{at}: {other:?}, not {wanted}")),
        });
    };
    asks("203.0.113.7:80", "stolen");
    asks("10.96.0.10:80", "dialled");
    asks("192.0.2.2:80", "dialled");
    let view = node.wait_policy("p", |view| view.programmed && view.resolved_refs);
    for why in
        ["it is the ClusterIP of default/kube-dns", "it is an address of Node n2", "it is a loopback address"]
    {
        assert!(view.message.contains(why), "{}", view.message);
    }
    let told = node.ctl_json(&["explain", "192.0.2.2:80"]);
    assert!(told["losers"][0]["why"].as_str().unwrap().contains("an address of Node n2"), "{told}");
    // A node joins.
    node.apply(&Object::node("n3", "203.0.113.7"));
    asks("203.0.113.7:80", "dialled");
    node.delete(&Object::node("n2", "192.0.2.2"));
    asks("192.0.2.2:80", "stolen");
}

/// A node with two of the pods counts twice; the kernel keeps shares in lowest terms.
#[test]
fn frontends_tell_the_weight_of_a_backend_that_stands_for_several_pods() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("weights");
    node.apply(&Object::node("n1", "192.0.2.1"));
    for (name, ip) in [("a", "10.1.0.1"), ("b", "10.1.0.2")] {
        let port = json!([{"name": "main", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
        node.apply(&Object::pod(name, "web", &[ip]).with("/spec/containers", port));
    }
    let policy = Object::balancing("p", "10.96.0.1", 80, "web");
    node.apply(&policy.with("/spec/backend/serviceEndpoint/redirectMode", "hostPort"));
    node.start();
    node.wait_backends("p", 1);
    for command in ["frontends", "backends"] {
        let rows = node.ctl_json(&[command]);
        let backend = if command == "frontends" { &rows[0]["backends"][0] } else { &rows[0] };
        assert_eq!((&backend["address"], &backend["weight"]), (&json!("192.0.2.1"), &json!(2)), "{rows}");
    }
    // Without an agent only the kernel is left to ask.
    node.agent().kill();
    assert_eq!(node.ctl_json(&["backends"])[0]["weight"], json!(1));
}

/// The examples of the documents in one directory: every policy has its backends.
#[test]
fn documented_policies_and_objects_work_together() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::new("documented");
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policies.md");
    let text = std::fs::read_to_string(document).unwrap();
    for (number, block) in text.split("```yaml\n").skip(1).enumerate() {
        node.apply_text(&format!("{number}.yaml"), block.split("```").next().unwrap());
    }
    let port = serde_json::json!([{"ports": [{"name": "http", "containerPort": 80, "hostPort": 8080},
        {"name": "https", "containerPort": 443, "hostPort": 8443}]}]);
    node.apply(&Object::pod("ingress-0", "ingress", &["10.1.0.2"]).with("/spec/containers", port));
    let dns = Object::pod("dns", "dns", &["10.1.0.3"]).with("/metadata/namespace", "kube-system");
    node.apply(&dns.with("/metadata/labels", serde_json::json!({"k8s-app": "node-local-dns"})));
    node.start();
    let view = node.view().unwrap();
    assert!(view.source.problems.is_empty(), "{:?}", view.source.problems);
    let found = node.policies();
    let backends: Vec<_> =
        found.iter().map(|view| (view.name.as_str(), view.backends, view.accepted)).collect();
    let wanted = [("node-local-dns", 1), ("database", 2), ("ingress", 1), ("outside", 1), ("shop", 1)];
    for (name, count) in wanted {
        let view = found.iter().find(|view| view.name == name).unwrap();
        assert!(
            view.accepted && view.backends >= count && view.programmed,
            "{name}: {backends:?}: {}",
            view.message
        );
    }
    assert_eq!(found.len(), wanted.len());
}
