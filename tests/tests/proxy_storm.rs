//! The table of connections under a storm: several CPUs, ports that are used over and over, time that runs out, a table that is full.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use balancing_dataplane::{
    model::Protocol::{Tcp, Udp},
    proxy::{
        Direction::{self, Egress, Ingress},
        Proxy, Sizes,
    },
};
use balancing_tests::{
    address,
    frames::{
        Flow, ends, is_sound,
        tcp::{ACK, FIN, RST, SYN},
    },
    proxied::{SIZES, Trial, packets, service},
    require_kernel, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const THREADS: u16 = 4;
const PODS: [&str; 3] = ["10.244.1.1:80", "10.244.1.2:80", "10.244.1.3:80"];
/// Time runs 1,024 times as fast: a connection of UDP lives for 59 ms, one of TCP for 7.8 s, a closed one for 10 ms.
const TIME_SHIFT: u32 = 10;
/// Whoever was away for longer does not know what has become of its connection.
const MOMENT: Duration = Duration::from_millis(4);
/// A row may go just when somebody else takes its place: one packet of so many finds none.
const RARE: u64 = 1_000;
const STORM: Duration = Duration::from_secs(4);

/// A thread's dice.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// One that talks to its own port of the proxy.
struct Caller {
    proxy: Proxy,
    called: Flow,
    /// Ports of the one client: the same for all callers, so that their connections meet at the pods.
    ports: u64,
    random: Random,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Frames that were tried.
    tried: u64,
    /// Answers that came back under the name that was called.
    right: u64,
    /// Answers that found no row.
    lost: u64,
    /// Answers that came back under a name that another one had called.
    crossed: u64,
}

impl Caller {
    fn frame(&mut self, direction: Direction, frame: &[u8]) -> Option<Flow> {
        self.counts.tried += 1;
        let verdict = self.proxy.try_frame(direction, frame).unwrap();
        assert!(!verdict.passed || is_sound(&verdict.frame));
        verdict.passed.then(|| ends(&verdict.frame).unwrap())
    }

    /// A question to whoever the proxy leads to, and the answer.
    fn ask(&mut self, question: &[u8], answer: impl FnOnce(Flow) -> Vec<u8>) {
        let start = Instant::now();
        let Some(led) = self.frame(Ingress, question) else { return };
        assert!(PODS.contains(&led.destination.to_string().as_str()), "{led:?}");
        assert_eq!(led.source.ip(), self.called.source.ip());
        let answered = self.frame(Egress, &answer(led.back()));
        if start.elapsed() > MOMENT {
            return;
        }
        match answered {
            Some(flow) if flow == self.called.back() => self.counts.right += 1,
            // A pod that begins to talk by itself bears its own port, or a random one.
            Some(flow) if flow.source.port() < 20_080 || flow.source.port() >= 0x8000 => {
                self.counts.lost += 1
            }
            None => self.counts.lost += 1,
            Some(_) => self.counts.crossed += 1,
        }
    }

    /// One of the things that a client does at a port.
    fn act(&mut self) {
        self.called = self.called.from_port(1024 + self.random.below(self.ports) as u16);
        let called = self.called;
        match self.random.below(8) {
            0..3 => self.ask(&called.udp(b"question"), |served| served.udp(b"answer")),
            3..6 => {
                self.ask(&called.tcp(SYN, b""), |served| served.tcp(SYN | ACK, b""));
                _ = self.frame(Ingress, &called.tcp(ACK, b"question"));
            }
            6 => _ = self.frame(Ingress, &called.tcp(FIN | ACK, b"")),
            _ => _ = self.frame(Ingress, &called.tcp(RST, b"")),
        }
    }
}

fn port(thread: u16) -> SocketAddr {
    address(&format!("10.211.0.1:{}", 20_080 + thread))
}

fn declare(trial: &mut Trial, pods: &[&str]) {
    for (thread, protocol) in (0..THREADS).flat_map(|thread| [(thread, Tcp), (thread, Udp)]) {
        trial.declare(&port(thread).to_string(), protocol, &service(pods));
    }
}

/// Lets the storm rage while an agent changes the pods, and sweeps if it is to.
fn storm(trial: &mut Trial, ports: u64, sweeps: bool) -> Counts {
    declare(trial, &PODS);
    let (before, start) = (trial.counters(), Instant::now());
    let caller = |thread: u16| Caller {
        proxy: trial.another(),
        called: Flow { source: address("10.211.0.2:1024"), destination: port(thread) },
        ports,
        random: Random(u64::from(thread) + 1),
        counts: Counts::default(),
    };
    let callers: Vec<_> = (0..THREADS).map(caller).collect();
    let all = thread::scope(|scope| {
        let rage = |mut caller: Caller| {
            while start.elapsed() < STORM {
                caller.act();
            }
            caller.counts
        };
        let callers: Vec<_> = callers.into_iter().map(|caller| scope.spawn(move || rage(caller))).collect();
        for number in 0.. {
            if callers.iter().all(|caller| caller.is_finished()) {
                break;
            }
            declare(trial, &PODS[..1 + number % PODS.len()]);
            if sweeps {
                trial.proxy.sweep().unwrap();
            }
        }
        callers.into_iter().map(|caller| caller.join().unwrap()).reduce(|a, b| Counts {
            tried: a.tried + b.tried,
            right: a.right + b.right,
            lost: a.lost + b.lost,
            crossed: a.crossed + b.crossed,
        })
    });
    let (all, after) = (all.unwrap(), trial.counters());
    let dropped = after.drops.iter().map(|(reason, count)| count - before.drops[reason]).sum::<u64>();
    assert_eq!(packets(&after) - packets(&before) + dropped, all.tried, "each is counted once");
    all
}

#[test]
fn nobody_is_answered_in_the_name_of_another() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::hurried("storm", SIZES, TIME_SHIFT);
    let all = storm(&mut trial, 500, false);
    assert!(all.right > 1_000 && all.lost <= all.right / RARE && all.crossed == 0, "{all:?}");
    let counters = trial.counters();
    assert_eq!(counters.drops["table_full"], 0);
    // Everything ends.
    let used =
        |trial: &Trial| trial.proxy.usage().unwrap().iter().find(|u| u.table == "connections").unwrap().used;
    while !trial.proxy.sweep().unwrap().complete {}
    wait_until(PATIENCE, || {
        let swept = trial.proxy.sweep().unwrap();
        swept.complete && used(&trial) == 0
    });
    assert_eq!(trial.counters().forgotten, 0, "there was room for all");
}

#[test]
fn a_full_table_forgets_counts_and_goes_on() {
    if !require_kernel() {
        return;
    }
    const ROWS: u32 = 4096;
    let mut trial = Trial::hurried("storm-full", Sizes { connections: ROWS, ..SIZES }, 0);
    let all = storm(&mut trial, 4_000, true);
    // Who has lost a row may meet somebody else there, until its next second.
    assert!(all.right > 1_000 && all.crossed <= all.right / RARE, "{all:?}");
    wait_until(PATIENCE, || trial.proxy.sweep().unwrap().complete);
    let usage = trial.proxy.usage().unwrap();
    let usage = usage.iter().find(|usage| usage.table == "connections").unwrap();
    assert!(usage.used <= ROWS, "{usage:?}");
    let counters = trial.counters();
    assert!(counters.forgotten > 0 && counters.forgotten < 4 * counters.proxied, "{counters:?}");
    // The next agent knows of it, and new connections find their place.
    trial.reload(Sizes { connections: ROWS, ..SIZES });
    wait_until(PATIENCE, || trial.proxy.sweep().unwrap().complete);
    assert!(trial.counters().forgotten >= counters.forgotten);
    declare(&mut trial, &PODS[..1]);
    let called = Flow { source: address("10.211.0.9:1"), destination: port(0) };
    // A new row may be the next that is forgotten: then the client's second SYN makes it again.
    let mut again = 0;
    for flow in (1..1000).map(|port| called.from_port(port)) {
        wait_until(PATIENCE, || {
            let led = ends(&trial.pass(Ingress, &flow.tcp(SYN, b""))).unwrap();
            let answered = trial.proxy.try_frame(Egress, &led.back().tcp(SYN | ACK, b"")).unwrap();
            again += u32::from(!answered.passed);
            answered.passed && ends(&answered.frame) == Some(flow.back())
        });
    }
    assert!(again < 100, "{again} of 1,000");
}
