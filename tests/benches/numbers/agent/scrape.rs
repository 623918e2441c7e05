//! A scrape with 60,000 frontends, and whether a change waits for one.
//!
//! The agent answers scrapes within a second from one text, so each that counts waits until that text is old.

use std::{
    net::SocketAddr,
    sync::Barrier,
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use balancing_tests::{Node, Object, http_get};
use serde_json::{Value, json};

use super::{MAX_BACKENDS, frontend, longest, milliseconds, policy, time_change};
use crate::{Report, median, plane::Kernel};

const FRONTENDS: u32 = 60_000;
/// Frontends of each policy: as many as a policy of the usual kind, or one.
const PORTS: u32 = 60;
const SCRAPES: usize = 9;
/// Longer than the agent repeats its text.
const STALE: Duration = Duration::from_millis(1_050);
/// A change falls this much later into each scrape, the first at its start.
const STEP: Duration = Duration::from_millis(1);

pub(super) fn measure(report: &mut Report) {
    let world = World::start("bench-scrape", FRONTENDS / PORTS, PORTS);
    let (mut alone, mut calm) = (Vec::new(), Vec::new());
    for round in 0..SCRAPES {
        sleep(STALE);
        alone.push(world.scrape());
        calm.push(world.change(round, Duration::ZERO));
    }
    let mut during: Vec<f64> = (0..SCRAPES).map(|round| world.change_during_scrape(round)).collect();
    let name = "a scrape with 60,000 frontends of 1,000 policies (median of 9)";
    report.at_most(name, median(&mut alone), "ms", 20.0);
    report.tell("one change there, file to kernel, no scrape (median of 9)", median(&mut calm), "ms");
    let name = "one change there, begun during a scrape (median of 9)";
    report.at_most(name, median(&mut during), "ms", 10.0);
    report.tell("one change there, begun during a scrape (longest of 9)", longest(&during), "ms");
    report.tell("one change there, file to kernel, no scrape (longest of 9)", longest(&calm), "ms");
    drop(world);

    let world = World::start("bench-scrape", FRONTENDS, 1);
    let scrape = |_| {
        sleep(STALE);
        world.scrape()
    };
    let mut times: Vec<f64> = (0..SCRAPES / 2).map(scrape).collect();
    report.tell("a scrape with 60,000 frontends of as many policies", median(&mut times), "ms");
}

/// An agent with many frontends.
struct World {
    kernel: Kernel,
    metrics: SocketAddr,
    node: Node,
    /// The policy that changes.
    number: u32,
}

impl World {
    fn start(topic: &str, policies: u32, ports: u32) -> Self {
        let mut node = Node::with(topic, &[&MAX_BACKENDS[..], &["--log-level", "warn"]].concat());
        let ports: Value =
            (1..=ports).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        let many = (0..policies).map(|number| {
            policy(number, [0x0b00_0000 + number])
                .with("/spec/frontend/addressMatcher/toPorts", ports.clone())
                .with("/spec/backend/addressEndpoint/toPorts", ports.clone())
        });
        node.apply_text("all.json", &Object::list(many).json());
        node.apply(&policy(policies, [0x0c00_0000]));
        node.start();
        let kernel = Kernel::open(node.bpffs());
        assert_eq!(kernel.layers(), FRONTENDS as usize + 1, "everything is programmed");
        let metrics = node.view().expect("the agent answers").metrics.expect("metrics are served");
        Self { kernel, metrics, node, number: policies }
    }

    /// Milliseconds of a scrape.
    fn scrape(&self) -> f64 {
        let metrics = self.metrics;
        self.node.host().run(|| {
            let start = Instant::now();
            let answer = http_get(metrics, "/metrics");
            let time = milliseconds(start.elapsed());
            assert!(answer.is_some_and(|(status, _)| status == 200), "the agent answers a scrape");
            time
        })
    }

    /// Milliseconds of a change, begun some time from now.
    fn change(&self, round: usize, after: Duration) -> f64 {
        let backend = 0x0c00_0001 + round as u32 % 2;
        let object = policy(self.number, [backend]);
        sleep(after);
        time_change(&self.kernel, frontend(self.number), &[backend], || self.node.apply(&object))
    }

    /// The same while a scrape is answered anew.
    fn change_during_scrape(&self, round: usize) -> f64 {
        sleep(STALE);
        let (together, host, metrics) = (&Barrier::new(2), self.node.host(), self.metrics);
        scope(|scope| {
            scope.spawn(move || {
                host.run(|| {
                    together.wait();
                    http_get(metrics, "/metrics")
                })
            });
            together.wait();
            self.change(round + SCRAPES % 2, STEP * round as u32)
        })
    }
}
