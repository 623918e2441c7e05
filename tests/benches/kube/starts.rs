//! Starts of the controller and of an agent where nothing is left of those before.

use std::{
    thread,
    time::{Duration, Instant},
};

use balancing_tests::eventually_within;

use crate::{
    fleet::{Fleet, PATIENCE, differences, tables},
    world::World,
};

/// Between two looks at a kernel's tables, which take some milliseconds.
const LOOK: Duration = Duration::from_millis(20);

/// The start of a controller that finds no EndpointSlices.
pub(crate) struct First {
    pub(crate) begin: Instant,
    /// From the begin until it was elected.
    pub(crate) elected: Duration,
    /// From the begin until it had written as many as there were before.
    pub(crate) written: Duration,
}

/// Starts another controller without the EndpointSlices of the one that runs.
pub(crate) fn first_slices(world: &mut World) -> First {
    let slices = world.slices().len();
    // It gives its Lease back: the next one need not wait until it runs out.
    world.controller.terminate();
    world.forget_slices();
    let begin = Instant::now();
    world.controller.start();
    world.controller.wait_elected();
    let elected = begin.elapsed();
    let count = || world.controller.metric("balancing_cluster_writes_total{object=\"endpointslice\"}");
    eventually_within(PATIENCE, || match count() {
        Some(count) if count >= slices as f64 => Ok(()),
        other => Err(format!("{other:?} of {slices} slices are written")),
    });
    let written = begin.elapsed();
    assert_eq!(world.slices().len(), slices, "each was written once");
    First { begin, elected, written }
}

/// Seconds from process start until the kernel has everything, on a node where no agent ran before.
pub(crate) fn cold_start(world: &mut World, fleet: &Fleet, node: usize) -> f64 {
    let wanted = fleet.wanted(node);
    let (status, message) = world.nodes[node].cleanup();
    assert!(status.success(), "cleanup: {message}");
    let start = Instant::now();
    world.nodes[node].agent().start(|| true);
    let found = eventually_within(PATIENCE, || {
        let right = differences(&tables(&world.nodes[node]), &wanted);
        right.map(|()| start.elapsed()).inspect_err(|_| thread::sleep(LOOK))
    });
    world.nodes[node].wait_view(|view| view.ready);
    found.as_secs_f64()
}
