//! Replicas of the controller: one speaks for all.

use std::time::Duration;

use balancing_tests::*;

use crate::world::{NAMESPACE, World, controller};

fn lease_holder(world: &World) -> Option<String> {
    let lease = Object::named("coordination.k8s.io/v1", "Lease", NAMESPACE, "balancing-controller");
    let lease = world.plane.client().get(&lease).ok()?;
    lease.at("/spec/holderIdentity").as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

#[track_caller]
fn wait_holder(world: &World, name: &str) {
    eventually_within(Duration::from_secs(120), || match lease_holder(world) {
        Some(holder) if holder.starts_with(&format!("{name}_")) => Ok(()),
        other => Err(format!("{other:?} is elected, not {name}")),
    });
}

#[test]
fn another_replica_speaks_for_all_when_the_elected_one_dies() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let mut first = world.controller.borrow_mut();
    wait_holder(&world, "c1");
    let mut second = controller(&world.plane, "c2");
    second.start();
    assert_eq!((first.metric("balancing_leader"), second.metric("balancing_leader")), (Some(1.0), Some(0.0)));
    world.plane.add_node("n1", &[], "192.0.2.1");
    let policy = world.put(&Object::balancing_to("p", "169.254.0.10", 80, &["10.1.0.1"]));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
    first.kill();
    let policy = world.put(&policy.with("/spec/enabled", false));
    // The lease of a dead one runs out first.
    wait_holder(&world, "c2");
    world.wait_condition(&policy, "Programmed", ("False", "Disabled"), "");
    // One that is asked to stop gives the lease back: nobody waits until it has run out.
    first.start();
    assert!(second.terminate().success());
    wait_holder(&world, "c1");
    let policy = world.put(&policy.with("/spec/enabled", true));
    world.wait_condition(&policy, "Programmed", ("True", "Programmed"), "");
}

/// Two processes of one name, as when a pod is replaced or somebody copies a configuration.
#[test]
fn two_of_one_name_never_lead_both() {
    if !require_kernel() {
        return;
    }
    let world = World::start();
    let first = world.controller.borrow();
    first.wait_elected();
    let mut second = controller(&world.plane, "c1");
    second.start();
    // Longer than a Lease lasts and a candidate waits.
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        assert_eq!(second.metric("balancing_leader"), Some(0.0));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(first.metric("balancing_leader"), Some(1.0));
}
