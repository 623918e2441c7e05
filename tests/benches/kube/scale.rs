//! A large cluster: starts, memory, and what changes cost, also while it grows.

use std::time::{Duration, Instant};

use balancing_tests::memory;

use crate::{
    Report,
    changes::{Cost, RATE, flip},
    fleet::{Fleet, PODS, Shape},
    median,
    starts::{cold_start, first_slices},
    world::{CONTROLLER, NODES, World},
};

const COLD_START_S: f64 = 5.0;
const MEMORY_MB: f64 = 150.0;
const CPU_PERCENT: f64 = 20.0;
/// More than that is growth and no noise.
const GROWTH: f64 = 1.2;

/// Pods about as large as small ones of real life.
const SHAPE: Shape = Shape { nodes: 100, local: Some(10), variables: 20 };

/// How much is measured.
struct Plan {
    /// Services at each step.
    services: [usize; 3],
    /// Policies at the last step.
    policies: usize,
    /// Cold starts of each kind.
    starts: usize,
    /// How long changes are made at the last step, and at the others.
    changes: [Duration; 2],
}

impl Plan {
    const FULL: Self = Self {
        services: [500, 1_000, 2_000],
        policies: 500,
        starts: 3,
        changes: [Duration::from_secs(60), Duration::from_secs(20)],
    };
    const QUICK: Self = Self {
        services: [50, 100, 200],
        policies: 50,
        starts: 1,
        changes: [Duration::from_secs(5), Duration::from_secs(3)],
    };

    /// The same share of the Services as at the last step.
    fn in_proportion(&self, services: usize) -> usize {
        self.policies * services / self.services[2]
    }
}

pub(crate) fn measure(report: &mut Report, world: &mut World, quick: bool) {
    let plan = if quick { &Plan::QUICK } else { &Plan::FULL };
    let mut fleet = Fleet::new(world, SHAPE);
    let [small, middle, large] = plan.services;
    let mut fixed = Vec::new();
    let mut proportional = Vec::new();
    for services in [small, middle] {
        let started = Instant::now();
        fleet.grow(world, services);
        tell_size(report, &fleet, started);
        for (policies, curve) in
            [(plan.in_proportion(services), &mut proportional), (plan.policies, &mut fixed)]
        {
            fleet.set_policies(world, policies);
            curve.push(change(report, world, &mut fleet, plan.changes[1]));
        }
    }
    let started = Instant::now();
    fleet.grow(world, large);
    tell_size(report, &fleet, started);
    fleet.wait_settled(world);
    starts(report, world, &fleet, plan.starts);
    fleet.wait_settled(world);
    let last = change(report, world, &mut fleet, plan.changes[0]);
    judge_load(report, world, &last);
    for (name, curve) in [("fixed", fixed), ("in proportion", proportional)] {
        for node in [NODES[1], CONTROLLER] {
            let growth = per_change(&last, node) / per_change(&curve[0], node);
            let name =
                format!("CPU per change, {large} Services over {small}, policies {name}, {}", who(node));
            report.at_most(&name, growth, "x", GROWTH);
        }
    }
}

/// What the agents took while changes were made, and have since.
fn judge_load(report: &mut Report, world: &mut World, cost: &Cost) {
    for node in [NODES[1], CONTROLLER] {
        let share = cost.cpu[node].as_secs_f64() / cost.time.as_secs_f64() * 100.0;
        let name = format!("CPU at {RATE} changes a second, {}", who(node));
        report.at_most(&name, share, "%", CPU_PERCENT);
        let pid = world.pid(node);
        for (name, field) in [("memory after that", "VmRSS"), ("peak memory", "VmHWM")] {
            report.at_most(&format!("{name}, {}", who(node)), memory(pid, field), "MB", MEMORY_MB);
        }
    }
}

fn tell_size(report: &mut Report, fleet: &Fleet, started: Instant) {
    let name =
        format!("{} Services, {} pods: the last of them made in", fleet.services, fleet.services * PODS);
    report.tell(&name, started.elapsed().as_secs_f64(), "s");
}

fn who(node: usize) -> &'static str {
    if node == CONTROLLER { "controller" } else { "agent" }
}

pub(crate) fn per_change(cost: &Cost, node: usize) -> f64 {
    cost.cpu[node].as_secs_f64() * 1e6 / f64::from(cost.changes)
}

/// Makes changes and tells what they cost.
fn change(report: &mut Report, world: &mut World, fleet: &mut Fleet, duration: Duration) -> Cost {
    fleet.wait_settled(world);
    let cost = flip(world, fleet, duration);
    let of = format!("{} Services, {} policies", fleet.services, fleet.policies);
    let rate = f64::from(cost.changes) / cost.time.as_secs_f64();
    report.tell(&format!("{of}: changes that the API server took"), rate, "/s");
    report.tell(
        "  from the answer to the last one to the kernels of both nodes",
        cost.lag.as_secs_f64() * 1e3,
        "ms",
    );
    let changes = f64::from(cost.changes);
    report.tell("  EndpointSlices written per change", cost.written[0] / changes, "");
    report.tell("  statuses written per change", cost.written[1] / changes, "");
    report.tell("  frontends written per change, agent", cost.published[NODES[1]] / changes, "");
    for node in [NODES[1], CONTROLLER] {
        report.tell(&format!("  CPU per change, {}", who(node)), per_change(&cost, node), "us");
    }
    cost
}

fn starts(report: &mut Report, world: &mut World, fleet: &Fleet, count: usize) {
    let size = format!("{} Services, {} policies", fleet.services, fleet.policies);
    let first = first_slices(world);
    fleet.wait_settled(world);
    let name = format!("first start of the controller at {size}, until the kernels have all slices");
    report.tell(&name, first.begin.elapsed().as_secs_f64(), "s");
    let mut times = Vec::new();
    for _ in 0..count {
        world.nodes[NODES[1]].agent().kill();
        times.push(cold_start(world, fleet, NODES[1]));
    }
    let name = format!("cold start at {size} (median of {count})");
    report.at_most(&name, median(&mut times), "s", COLD_START_S);
}
