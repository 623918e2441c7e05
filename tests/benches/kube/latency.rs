//! From a change at the API server to the sockets of a client on a node.
//!
//! The client connects all the time, about once a millisecond. What it saw tells when a change was in force.

use std::{net::SocketAddr, thread, time::Duration};

use balancing_tests::{Churn, Client, Kind, Object, Sample, address, eventually, monotonic_ns};

use crate::{
    Report, median,
    world::{NODES, World},
};

/// Most that a change may take to reach a connect.
const TARGET_MS: f64 = 300.0;
/// Rest of the client between two connects.
const PAUSE: Duration = Duration::from_millis(1);
/// The client goes on for so long after it was right for the first time.
const AFTER: Duration = Duration::from_millis(100);
const FRONTEND: &str = "169.254.0.10:80";
const POD: &str = "10.1.0.1:80";
const LOCAL: &str = "local";
const ORIGINAL: &str = "original";

/// What a client saw of a change.
struct Seen {
    /// When the change was begun, and when the API server had it.
    began: u64,
    answered: u64,
    samples: Vec<Sample>,
}

struct Scene<'a> {
    world: &'a World,
    client: Client,
    to: SocketAddr,
    rounds: usize,
}

pub(crate) fn measure(report: &mut Report, world: &mut World, quick: bool) {
    let (world, rounds) = (&*world, if quick { 5 } else { 25 });
    let node = &world.nodes[NODES[1]];
    let _servers = [node.serve(ORIGINAL, &[FRONTEND]), node.serve(LOCAL, &[POD])];
    let pod = Object::pod("latency", "latency", &["10.1.0.1"]).with("/spec/nodeName", "n2");
    let pod = world.plane.run_pod(&pod);
    let _cgroup = node.pod_cgroup(&pod);
    let mut scene = Scene { world, client: node.client(), to: address(FRONTEND), rounds };
    for (kind, policy) in [
        ("LocalRedirectPolicy", Object::local_redirect("latency", "169.254.0.10", 80, "latency")),
        ("BalancingPolicy", Object::balancing("latency", "169.254.0.10", 80, "latency")),
    ] {
        scene.apply(report, kind, &policy);
        scene.unready(report, kind, &policy);
    }
    world.plane.client().delete(&pod).expect("the pod is there");
}

impl Scene<'_> {
    /// A new policy, by kubectl and by a client that is connected already.
    fn apply(&mut self, report: &mut Report, kind: &str, policy: &Object) {
        let json = policy.json();
        let (mut from_start, mut kubectl, mut from_answer) = (Vec::new(), Vec::new(), Vec::new());
        // The first kubectl learns the kinds of the API server.
        for round in 0..=self.rounds {
            let seen = self.watch(Some(LOCAL), |world| world.plane.apply(&json));
            if round > 0 {
                from_start.push(ms(seen.first(LOCAL), seen.began));
                kubectl.push(ms(seen.answered, seen.began));
            }
            self.remove(policy);
            let seen = self.watch(Some(LOCAL), |world| {
                world.plane.client().put(policy).expect("the policy is valid");
            });
            if round > 0 {
                from_answer.push(ms(seen.first(LOCAL), seen.answered));
            }
            self.remove(policy);
        }
        let of = self.rounds;
        let name = format!("kubectl apply of a {kind}, process start to first redirected connect");
        report.at_most(&format!("{name} (median of {of})"), median(&mut from_start), "ms", TARGET_MS);
        report.tell("  the slowest of them", most(&from_start), "ms");
        report.tell("  kubectl itself, start to end (median)", median(&mut kubectl), "ms");
        let name = format!("API server's answer about a {kind} to first redirected connect");
        report.at_most(&format!("{name} (median of {of})"), median(&mut from_answer), "ms", TARGET_MS);
        report.tell("  the slowest of them", most(&from_answer), "ms");
    }

    /// The only backend gets unready.
    fn unready(&mut self, report: &mut Report, kind: &str, policy: &Object) {
        let client = self.world.plane.client();
        client.put(policy).expect("the policy is valid");
        let mut times = Vec::new();
        for _ in 0..self.rounds {
            self.wait_for(Some(LOCAL));
            let seen = self.watch(None, |world| world.plane.set_ready("default", "latency", false));
            times.push(ms(seen.last_after_answer(LOCAL).unwrap_or(seen.answered), seen.answered));
            self.world.plane.set_ready("default", "latency", true);
        }
        self.wait_for(Some(LOCAL));
        self.remove(policy);
        let name = format!("pod unready at the API server to last connect to it, {kind}");
        report.at_most(&format!("{name} (median of {})", self.rounds), median(&mut times), "ms", TARGET_MS);
        report.tell("  the slowest of them", most(&times), "ms");
    }

    /// Makes a change while the client connects, until the server that it wants answers; `None` = any but the pod.
    fn watch(&mut self, wanted: Option<&str>, change: impl FnOnce(&World)) -> Seen {
        self.client.start_churn(&Churn {
            samples: true,
            pause: Some(PAUSE),
            ..Churn::to(Kind::tcp(self.to), self.to)
        });
        let began = monotonic_ns();
        change(self.world);
        let answered = monotonic_ns();
        self.wait_for(wanted);
        thread::sleep(AFTER);
        Seen { began, answered, samples: self.client.stop_churn().samples }
    }

    fn wait_for(&mut self, wanted: Option<&str>) {
        eventually(|| {
            let answer = self.client.ask_tcp(self.to).ok();
            let right =
                wanted.map_or(answer.as_deref() != Some(LOCAL), |name| answer.as_deref() == Some(name));
            if right { Ok(()) } else { Err(format!("{} is answered by {answer:?}", self.to)) }
        });
    }

    /// Takes a policy away, and waits until nothing is left of it.
    fn remove(&mut self, policy: &Object) {
        self.world.plane.client().delete(policy).expect("the policy is there");
        self.wait_for(Some(ORIGINAL));
        eventually(|| match self.world.slices().len() {
            0 => Ok(()),
            left => Err(format!("{left} slices are left")),
        });
    }
}

impl Seen {
    /// When the client had the first answer of a server.
    fn first(&self, server: &str) -> u64 {
        let first = self.samples.iter().find(|sample| is(sample, server));
        first.expect("somebody else had an answer, too").ended_ns
    }

    /// When the last connect began that reached a server, of those that began after the change.
    fn last_after_answer(&self, server: &str) -> Option<u64> {
        let wrong = self.samples.iter().filter(|sample| is(sample, server));
        wrong.map(|sample| sample.began_ns).filter(|began| *began > self.answered).max()
    }
}

fn is(sample: &Sample, server: &str) -> bool {
    sample.outcome.as_deref() == Ok(server)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// Milliseconds from `start` to `end`, which may lie before it.
fn ms(end: u64, start: u64) -> f64 {
    (end as f64 - start as f64) / 1e6
}
