//! A very large cluster: what the controller and an agent take there.
//!
//! Its pods are of 1.5 kB and go into the store behind the API server's back; there would be no time to create them one
//! by one. Neither the controller nor an agent keeps more of a pod than it needs, so its size matters little to them.

use std::time::{Duration, Instant};

use balancing_tests::memory;

use crate::{
    Report,
    changes::{RATE, flip},
    fleet::{Fleet, PODS, Shape},
    scale::per_change,
    starts::{cold_start, first_slices},
    world::{CONTROLLER, NODES, World},
};

const CONTROLLER_MB: f64 = 200.0;
const AGENT_MB: f64 = 60.0;
const FIRST_SLICES_S: f64 = 20.0;
const CPU_PER_CHANGE_US: f64 = 2_000.0;

/// How much is measured.
struct Plan {
    nodes: usize,
    services: usize,
    policies: usize,
    /// How long changes are made.
    changes: Duration,
}

const FULL: Plan = Plan { nodes: 5_000, services: 10_000, policies: 1_000, changes: Duration::from_secs(30) };
const QUICK: Plan = Plan { nodes: 250, services: 500, policies: 50, changes: Duration::from_secs(5) };

pub(crate) fn measure(report: &mut Report, world: &mut World, quick: bool) {
    let plan = if quick { QUICK } else { FULL };
    let mut fleet = make(report, world, &plan);
    let first = first_slices(world);
    let name = "  start of the controller to the last of the first slices";
    report.at_most(name, first.written.as_secs_f64(), "s", FIRST_SLICES_S);
    report.tell("  of that until it is elected", first.elected.as_secs_f64(), "s");
    fleet.wait_settled(world);
    // The agent's memory is that of a process that finds the cluster as it is.
    world.nodes[NODES[1]].agent().kill();
    let start = cold_start(world, &fleet, NODES[1]);
    report.tell("  cold start of an agent", start, "s");
    let cost = flip(world, &mut fleet, plan.changes);
    let name = format!("  CPU per change of a pod, {RATE} a second, controller");
    report.at_most(&name, per_change(&cost, CONTROLLER), "us", CPU_PER_CHANGE_US);
    report.tell("  the same, agent", per_change(&cost, NODES[1]), "us");
    report.tell("  from the answer to the last change to the kernels", cost.lag.as_secs_f64() * 1e3, "ms");
    for (who, place, bound) in [("controller", CONTROLLER, CONTROLLER_MB), ("agent", NODES[1], AGENT_MB)] {
        let pid = world.pid(place);
        report.at_most(&format!("  memory after that, {who}"), memory(pid, "VmRSS"), "MB", bound);
        report.at_most(&format!("  peak memory, {who}"), memory(pid, "VmHWM"), "MB", bound);
    }
}

fn make(report: &mut Report, world: &mut World, plan: &Plan) -> Fleet {
    let start = Instant::now();
    let Plan { nodes, services, policies, .. } = *plan;
    let mut fleet = Fleet::stored(world, Shape { nodes, local: None, variables: 0 }, services);
    fleet.set_policies(world, policies);
    fleet.wait_settled(world);
    let pods = services * PODS;
    let name = format!(
        "{pods} pods of 1.5 kB, {nodes} nodes, {services} Services, {policies} BalancingPolicies: made in"
    );
    report.tell(&name, start.elapsed().as_secs_f64(), "s");
    fleet
}
