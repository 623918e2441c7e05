//! Readiness of pods that changes at a steady pace.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use balancing_tests::{cpu, eventually_within};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    fleet::{Fleet, PATIENCE, differences, tables},
    world::{CONTROLLER, World},
};

/// Changes a second.
pub(crate) const RATE: u32 = 100;
/// Requests under way at once, at most.
const LANES: usize = 32;

/// What the changes took.
pub(crate) struct Cost {
    /// From the first change to the API server's answer to the last one.
    pub(crate) time: Duration,
    /// From then until the kernels of all nodes had the last state.
    pub(crate) lag: Duration,
    pub(crate) changes: u32,
    /// CPU time of each node's agent and of the controller, until then.
    pub(crate) cpu: [Duration; 3],
    /// Frontends that each agent wrote.
    pub(crate) published: [f64; 2],
    /// EndpointSlices and statuses that the controller wrote.
    pub(crate) written: [f64; 2],
}

/// Turns the readiness of pods over for a time, each as often as any other.
pub(crate) fn flip(world: &mut World, fleet: &mut Fleet, duration: Duration) -> Cost {
    let pods = shuffled(fleet.watched());
    let changes = RATE * u32::try_from(duration.as_secs()).expect("a short time");
    let flips: Vec<(String, bool)> =
        pods.iter().cycle().take(changes as usize).map(|pod| fleet.flip(*pod)).collect();
    let pids = [0, 1, CONTROLLER].map(|place| world.pid(place));
    let counted = counters(world);
    let (before, start) = (pids.map(cpu), Instant::now());
    send(world, flips);
    let time = start.elapsed();
    for (at, node) in world.nodes.iter().enumerate() {
        let wanted = fleet.wanted(at);
        eventually_within(PATIENCE, || differences(&tables(node), &wanted));
    }
    let (lag, after) = (start.elapsed() - time, pids.map(cpu));
    let grown: Vec<f64> =
        counters(world).iter().zip(&counted).map(|(after, before)| after - before).collect();
    Cost {
        time,
        lag,
        changes,
        cpu: [0, 1, CONTROLLER].map(|place| after[place] - before[place]),
        published: [grown[0], grown[1]],
        written: [grown[2], grown[3]],
    }
}

fn counters(world: &World) -> [f64; 4] {
    let published =
        |node| world.metric(node, "balancing_frontends_published_total").expect("the agent counts");
    let written = |object| {
        let name = format!("balancing_cluster_writes_total{{object=\"{object}\"}}");
        world.controller.metric(&name).expect("the controller counts")
    };
    [published(0), published(1), written("endpointslice"), written("status")]
}

/// Sends changes at the pace, whether or not the API server has answered those before. Changes of one pod keep their
/// order: they go through one lane.
fn send(world: &World, flips: Vec<(String, bool)>) {
    let pods = Api::<Pod>::namespaced(world.plane.client().kube(), "default");
    world.plane.client().run(async move {
        let mut lanes = BTreeMap::<usize, mpsc::UnboundedSender<(String, bool)>>::new();
        let (mut ends, start) = (JoinSet::new(), tokio::time::Instant::now());
        for (number, flip) in (0_u32..).zip(flips) {
            tokio::time::sleep_until(start + Duration::from_secs(1) * number / RATE).await;
            let of_pod =
                flip.0.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            let lane = lanes.entry(of_pod % LANES).or_insert_with(|| {
                let (lane, waiting) = mpsc::unbounded_channel();
                ends.spawn(patch(pods.clone(), waiting));
                lane
            });
            lane.send(flip).expect("no pod was refused so far");
        }
        drop(lanes);
        while let Some(end) = ends.join_next().await {
            end.expect("every pod is patched");
        }
    });
}

async fn patch(pods: Api<Pod>, mut waiting: mpsc::UnboundedReceiver<(String, bool)>) {
    while let Some((name, ready)) = waiting.recv().await {
        let status = if ready { "True" } else { "False" };
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let patched = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        patched.expect("the pod is there");
    }
}

/// In an order that is the same in every run.
fn shuffled(mut pods: Vec<usize>) -> Vec<usize> {
    let mut seed = 1_u64;
    for at in (1..pods.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pods.swap(at, (seed >> 33) as usize % (at + 1));
    }
    pods
}
