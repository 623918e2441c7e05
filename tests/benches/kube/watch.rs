//! What an idle agent hears from the API server while the cluster around it is not idle: kubelets say that they live,
//! which concerns no agent but that of the node.

use std::{
    thread,
    time::{Duration, Instant},
};

use balancing_tests::Node;

use crate::{
    Report,
    fleet::{Fleet, Shape},
    kubelets::{Kubelets, PERIOD},
    report::{Bound, Detail, Figure},
    world::{NODES, World},
};

/// Watches bookmark about once a minute, about 500 bytes each, and each is asked for anew every few minutes.
const BYTES: f64 = 200.0;
/// None, but for a change that a part of the control plane itself makes now and then.
const EVENTS: f64 = 0.1;
/// Share of the signs of life without which a measurement tells nothing.
const ENOUGH: f64 = 0.9;
/// Until what came before is in the metrics, which may be a second old.
const SETTLE: Duration = Duration::from_secs(5);

/// What came from the API server in a second.
struct Rate {
    bytes: f64,
    events: f64,
}

pub(crate) fn measure(report: &mut Report, world: &mut World, quick: bool) {
    let (nodes, time) = if quick { (50, 10) } else { (500, 60) };
    let _fleet = Fleet::new(world, Shape { nodes, local: None, variables: 0 });
    // Numbers of nodes are one above their places. The node that is measured is the last of those whose agents run.
    let own = NODES[1] + 1;
    let others = Kubelets::start(world, own + 1..=nodes);
    let (before, start) = (others.count(), Instant::now());
    let heard = listen(world, Duration::from_secs(time));
    let signs = (others.count() - before) as f64 / start.elapsed().as_secs_f64();
    let wanted = 2.0 * (nodes - own) as f64 / PERIOD.as_secs_f64();
    report.tell(
        &format!("{nodes} nodes: heartbeats and Lease renewals that the API server took"),
        signs,
        "/s",
    );
    for (what, value, unit, target) in
        [("events", heard.events, "/s", EVENTS), ("bytes", heard.bytes, "B/s", BYTES)]
    {
        let name = format!("  {what} that an idle agent receives, of all but its own Node");
        let noisy = signs < wanted * ENOUGH;
        report.figure(Figure {
            name,
            value,
            unit,
            target: Some(Bound::AtMost(target)),
            noisy,
            detail: Detail::default(),
        });
    }
    let _own = Kubelets::start(world, own..=own);
    let heard = listen(world, Duration::from_secs(time / 2));
    report.tell("  events with a heartbeat of its own Node every 10 s", heard.events, "/s");
    report.tell("  bytes with that", heard.bytes, "B/s");
}

fn listen(world: &World, time: Duration) -> Rate {
    thread::sleep(SETTLE);
    let node = &world.nodes[NODES[1]];
    let seen = || (Instant::now(), world.plane.bytes_to(node.host()) as f64, events(node));
    let (start, bytes, count) = seen();
    thread::sleep(time);
    let (end, bytes_now, count_now) = seen();
    let seconds = (end - start).as_secs_f64();
    Rate { bytes: (bytes_now - bytes) / seconds, events: (count_now - count) / seconds }
}

/// Changes of objects that all watches of a node's agent have delivered. Bookmarks are none.
fn events(node: &Node) -> f64 {
    let (_, text) = node.http(Node::METRICS, "/metrics").expect("the agent answers");
    let rows = text.lines().filter(|line| line.starts_with("balancing_watch_events_total{"));
    rows.filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
