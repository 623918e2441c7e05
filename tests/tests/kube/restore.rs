//! etcd restored to an earlier state, whose versions are given a second time.

use std::time::Duration;

use balancing_tests::*;
use serde_json::json;

use crate::world::{NAMESPACE, World, text};

const FRONTEND: &str = "169.254.0.10:80";
/// The Lease runs out after 15 s, and waits of the watches grow to as much.
const RECOVERY: Duration = Duration::from_secs(90);

#[track_caller]
fn answered(client: &mut Client, wanted: &str) {
    eventually_within(RECOVERY, || match client.ask_tcp(address(FRONTEND)) {
        Ok(name) if name == wanted => Ok(()),
        other => Err(format!("answered by {other:?}, not {wanted}")),
    });
}

/// Whether pods are ready, in the order of their names, as the one slice says.
fn listed(world: &World) -> Result<Vec<bool>, String> {
    let slices =
        world.plane.client().list("discovery.k8s.io/v1", "EndpointSlice").map_err(|e| e.to_string())?;
    let ours: Vec<_> = slices.iter().filter(|slice| slice.namespace() == NAMESPACE).collect();
    let [slice] = ours.as_slice() else { return Err(format!("{} slices", ours.len())) };
    let endpoints = slice.at("/endpoints").as_array().cloned().unwrap_or_default();
    let mut ready: Vec<_> = endpoints
        .iter()
        .map(|e| (e["targetRef"]["name"].to_string(), e["conditions"]["ready"] == json!(true)))
        .collect();
    ready.sort();
    Ok(ready.into_iter().map(|(_, ready)| ready).collect())
}

#[test]
fn agents_and_controller_take_the_older_state_and_go_on() {
    if !require_kernel() {
        return;
    }
    let mut world = World::start();
    let mut node = world.node("n1", &[], "192.0.2.1");
    world.plane.add_node("n2", &[], "192.0.2.2");
    node.start();
    let _servers =
        [("first", "10.1.0.1:80"), ("second", "10.1.0.2:80")].map(|(name, at)| node.serve(name, &[at]));
    for (name, ip) in [("a", "10.1.0.1"), ("b", "10.1.0.2")] {
        world.plane.run_pod(&Object::pod(name, "web", &[ip]).with("/spec/nodeName", "n2"));
    }
    let policy = world.put(&Object::balancing("p", "169.254.0.10", 80, "web"));
    let mut client = node.client();
    world.plane.set_ready("default", "b", false);
    answered(&mut client, "first");
    eventually_within(RECOVERY, || match listed(&world)?.as_slice() {
        [true, false] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.plane.save_store();
    // The versions of what is known run ahead of those that are restored.
    for round in 0..20 {
        world.plane.set_ready("default", "b", round % 2 == 1);
        world.plane.set_ready("default", "a", round % 2 == 0);
    }
    answered(&mut client, "second");
    world.put(&Object::balancing("lost", "169.254.0.11", 80, "web"));
    node.wait_backends("lost", 1);
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");

    world.plane.restore_store();
    answered(&mut client, "first");
    eventually_within(RECOVERY, || match node.policies().as_slice() {
        [one] if one.name == "p" => Ok(()),
        other => Err(format!("{} policies", other.len())),
    });
    // And the controller writes again.
    world.plane.set_ready("default", "b", true);
    world.plane.set_ready("default", "a", false);
    eventually_within(RECOVERY, || match listed(&world)?.as_slice() {
        [false, true] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    answered(&mut client, "second");
    let other = world.put(&Object::balancing("other", "169.254.0.12", 80, "web"));
    eventually_within(RECOVERY, || {
        let stored = world.plane.client().get(&other).map_err(|e| e.to_string())?;
        match text(&stored, "/status/conditions/0/type") {
            "" => Err("no status".to_owned()),
            _ => Ok(()),
        }
    });
    node.wait_backends("other", 1);
}
