//! Status is written when something changed, and never otherwise.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use balancing_tests::*;

use crate::world::{NAMESPACE, World, number, text};

/// Requests that change something, by resource, as the API server counted them since its start. Leases are
/// renewed all the time and do not count.
fn writes(world: &World) -> BTreeMap<String, u64> {
    let metrics = world.plane.client().text("/metrics").unwrap();
    let mut writes = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let Some((labels, count)) = line.rsplit_once(' ') else { continue };
        let label = |name: &str| {
            let start = labels.find(&format!("{name}=\""))? + name.len() + 2;
            labels[start..].split('"').next()
        };
        let changes = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];
        let ours = ["balancing.elf.io", "discovery.k8s.io", "events.k8s.io"];
        if label("verb").is_some_and(|verb| changes.contains(&verb))
            && label("group").is_some_and(|g| ours.contains(&g))
        {
            let resource =
                format!("{} {}", label("verb").unwrap_or_default(), label("resource").unwrap_or_default());
            *writes.entry(resource).or_default() += count.parse::<f64>().unwrap() as u64;
        }
    }
    writes
}

#[test]
fn a_minute_without_change_is_a_minute_without_a_write() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let node = world.started_node();
    let policies: Vec<Object> = (1..=20)
        .map(|n| {
            let frontend = format!("169.254.0.{n}");
            world.put(&match n % 3 {
                0 => Object::local_redirect(&format!("p{n}"), &frontend, 80, "web"),
                1 => Object::balancing(&format!("p{n}"), &frontend, 80, "web"),
                // One frontend for several: conflicts.
                _ => Object::balancing_to(&format!("p{n}"), "169.254.0.100", 80, &["10.1.0.9"]),
            })
        })
        .collect();
    world.plane.run_pod(&Object::pod("web", "web", &["10.1.0.1"]));
    for policy in &policies {
        eventually(|| {
            let stored = world.plane.client().get(policy).map_err(|e| e.to_string())?;
            let backends = number(&stored, "/status/backends");
            let lost =
                stored.at("/status/conditions").to_string().contains("\"Conflicted\",\"status\":\"True\"")
                    || number(&stored, "/status/frontends") == Some(0);
            if backends == Some(1) || lost { Ok(()) } else { Err(stored.at("/status").to_string()) }
        });
    }
    node.wait_view(|view| view.ready);
    // Status writes are gathered for a second; what is still on its way arrives long before this is over.
    let settled = eventually_within(Duration::from_secs(200), || {
        let before = writes(&world);
        thread::sleep(Duration::from_secs(10));
        let after = writes(&world);
        if before == after { Ok(after) } else { Err(format!("{before:?} became {after:?}")) }
    });
    assert!(!settled.is_empty(), "the API server counts requests under other names");
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        thread::sleep(Duration::from_secs(5));
        assert_eq!(writes(&world), settled, "something was written without a change");
    }
}

/// Another writer's change of the status is put right, once.
#[test]
fn a_status_that_somebody_else_changed_is_put_right() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let _node = world.started_node();
    let policy = world.put(&Object::balancing_to("p", "169.254.0.10", 80, &["10.1.0.1"]));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
    let wrong = serde_json::json!({"status": {"backends": 77, "conditions": [], "serviceId": null}});
    world.plane.client().patch(&policy, "status", wrong).unwrap();
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
    let stored = world.policy("BalancingPolicy", "p");
    assert_eq!(number(&stored, "/status/backends"), Some(1));
}

/// The one frontend that there is room for is taken: the node says so, in an Event and in its metrics.
#[test]
fn a_node_that_cannot_program_a_policy_tells_by_event_and_metric() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    world.plane.add_node("n1", &[], "192.0.2.1");
    let limit = ["--max-frontends", "1"];
    let mut node = Node::in_cluster(&world.plane, "n1", &world.kubeconfig("n1"), NAMESPACE, &limit);
    world.put(&Object::balancing_to("first", "169.254.0.10", 80, &["10.1.0.1"]));
    node.start();
    node.wait_policy("first", |view| view.programmed);
    assert_eq!(node.http(Node::HTTP, "/readyz").unwrap().0, 200);
    let second = world.put(&Object::balancing_to("second", "169.254.0.11", 80, &["10.1.0.1"]));
    let event = eventually(|| {
        let events = world.plane.client().list("events.k8s.io/v1", "Event").map_err(|e| e.to_string())?;
        let of_ours = |event: &&Object| text(event, "/regarding/uid") == second.uid();
        events.iter().find(of_ours).cloned().ok_or("no Event".to_owned())
    });
    assert_eq!(text(&event, "/reason"), "ProgrammingFailed");
    assert_eq!(text(&event, "/type"), "Warning");
    assert!(text(&event, "/note").contains("169.254.0.11:80"), "{event:?}");
    let described = world.plane.kubectl(&["describe", "bl", "second"]).stdout;
    assert!(described.contains("ProgrammingFailed"), "{described}");
    let failed = "balancing_policy_failed{kind=\"BalancingPolicy\",name=\"second\"";
    eventually(|| {
        let metrics = node.http(Node::METRICS, "/metrics").unwrap().1;
        if metrics.contains(failed) { Ok(()) } else { Err(metrics) }
    });
}
