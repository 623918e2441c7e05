//! What an agent of a fabric takes while nothing happens, and while one member of many changes all the time.

use std::{
    thread,
    time::{Duration, Instant},
};

use balancing_tests::{Node, Object, Underlay, cpu, fabric};

use crate::Report;

/// How long nothing happens.
const REST: Duration = Duration::from_secs(60);
/// How long one member changes, and how often.
const CHURN: Duration = Duration::from_secs(10);
const EACH: Duration = Duration::from_millis(10);
/// The other members.
const MANY: u16 = 1_000;

pub(crate) fn measure(report: &mut Report) {
    let mut world = fabric::World::new("rest").start();
    let few = share(&world.nodes[0].agent().pid(), REST, || thread::sleep(REST));
    report.tell("agent with 3 tunnel peers at rest", few, "% of a core");
    drop(world);

    let underlay = Underlay::new();
    let mut node = Node::named("rest-many", "n1", &[]);
    underlay.join(node.host());
    let wide = fabric::fabric().with("/spec/ipv4Pool", "10.211.0.0/16");
    for object in [wide, fabric::node("n1", 1), fabric::member("Node", "n1", 1)] {
        node.apply(&object);
    }
    (0..MANY).for_each(|n| node.apply(&peer(n, 18)));
    node.start();
    let pid = node.agent().pid();
    let many = share(&pid, REST, || thread::sleep(REST));
    report.tell(&format!("agent with {MANY} tunnel peers at rest"), many, "% of a core");
    let churn = share(&pid, CHURN, || {
        let start = Instant::now();
        for round in 0u32.. {
            let due = start + EACH * round;
            if due >= start + CHURN {
                return;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            node.apply(&peer(0, 18 + (round % 2) as u8));
        }
    });
    report.at_most(
        &format!("agent with {MANY} tunnel peers, one changes 100 times a second"),
        churn,
        "% of a core",
        10.0,
    );
}

/// CPU time of a process while something goes on, as a part of that time.
fn share(pid: &u32, time: Duration, work: impl FnOnce()) -> f64 {
    let before = cpu(*pid);
    work();
    (cpu(*pid) - before).as_secs_f64() / time.as_secs_f64() * 100.0
}

/// A member that nobody reaches, in one of two networks.
fn peer(n: u16, network: u8) -> Object {
    let [high, low] = n.to_be_bytes();
    fabric::member("Node", &format!("peer{n}"), 2)
        .with("/spec/underlay", serde_json::json!({"ipv4": format!("198.{network}.{high}.{low}")}))
        .with("/spec/mac", format!("66:00:00:01:{high:02x}:{low:02x}"))
        .with(
            "/spec/addresses",
            serde_json::json!([format!("10.211.{}.{low}", high + 1), format!("fd11::1:{n:x}")]),
        )
}
