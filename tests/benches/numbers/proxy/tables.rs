//! The proxy's tables: ports that are declared, and a table of connections that is full.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use balancing_dataplane::{
    model::{FrontendKey, Protocol::Udp},
    proxy::{Direction::Ingress, Service, Sizes},
};
use balancing_tests::{
    address,
    frames::Flow,
    proxied::{Trial, frontend, service},
};

use crate::{Report, median};

/// Ports that are declared, each with two pods.
const PORTS: u16 = 10_000;
/// Runs of which the median counts.
const RUNS: usize = 7;
const PORT: &str = "10.211.0.1:20080";
/// As many as there is room for by default.
const CONNECTIONS: u32 = 131_072;
const PODS: [&str; 2] = ["10.244.1.1:80", "10.244.1.2:80"];

pub(super) fn measure(report: &mut Report) {
    let mut loads = Vec::new();
    for _ in 1..RUNS {
        loads.push(load(&mut Trial::with("bench-ports", Sizes::default())));
    }
    let mut trial = Trial::with("bench-ports", Sizes::default());
    loads.push(load(&mut trial));
    report.at_most(&format!("{PORTS} ports of the proxy declared"), median(&mut loads), "ms", 500.0);
    let key = key(PORTS + 1);
    let (mut more, mut less) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        more.push(milliseconds(|| trial.proxy.publish(key, &service(&PODS)).expect("there is room")));
        less.push(milliseconds(|| trial.proxy.remove(&key).expect("it is there")));
    }
    report.at_most("one port more", median(&mut more) * 1e3, "us", 20_000.0);
    report.at_most("one port less", median(&mut less) * 1e3, "us", 20_000.0);
    let mut taken: Vec<f64> = (0..RUNS).map(|_| milliseconds(|| trial.reload(Sizes::default()))).collect();
    report.tell("those ports taken over by the next agent, programs loaded", median(&mut taken), "ms");
    drop(trial);
    full(report);
}

fn load(trial: &mut Trial) -> f64 {
    let service = service(&PODS);
    milliseconds(|| {
        (1..=PORTS).for_each(|port| trial.proxy.publish(key(port), &service).expect("there is room"));
    })
}

/// A backend leaves while the table of connections is full, and sweeps over it.
fn full(report: &mut Report) {
    let mut trial = filled("bench-full", 0);
    let services = [service(&PODS), service(&PODS[..1])];
    let mut turn = 0;
    let mut change = |trial: &mut Trial| {
        turn += 1;
        let service: &Service = &services[turn % 2];
        milliseconds(|| trial.proxy.publish(frontend(PORT, Udp), service).expect("there is room"))
    };
    let mut changes: Vec<f64> = (0..RUNS * 2).map(|_| change(&mut trial)).collect();
    let name = format!("a pod leaves or comes, {CONNECTIONS} connections");
    report.at_most(&name, median(&mut changes) * 1e3, "us", 20_000.0);
    let parts = sweep(&mut trial);
    report.tell("parts of a sweep over those", parts.len() as f64, "");
    report.at_most("the longest part, none has ended", longest(&parts), "ms", 20.0);
    // Time runs so fast that all have ended.
    let parts = sweep(&mut filled("bench-ended", 16));
    report.at_most("the longest part, all have ended", longest(&parts), "ms", 20.0);
}

/// A proxy whose table of connections is full.
fn filled(topic: &str, time_shift: u32) -> Trial {
    let mut trial = Trial::hurried(topic, Sizes::default(), time_shift);
    trial.proxy.publish(frontend(PORT, Udp), &service(&PODS)).expect("there is room");
    for number in 0..CONNECTIONS {
        _ = trial.proxy.try_frame(Ingress, &flow(number).udp(b"")).expect("a frame is tried");
    }
    trial
}

/// Sweeps over the whole table; milliseconds of the parts.
fn sweep(trial: &mut Trial) -> Vec<f64> {
    let (mut parts, mut complete) = (Vec::new(), false);
    while !complete {
        parts.push(milliseconds(|| complete = trial.proxy.sweep().expect("the table is read").complete));
    }
    parts
}

fn longest(parts: &[f64]) -> f64 {
    parts.iter().copied().fold(f64::NAN, f64::max)
}

fn flow(number: u32) -> Flow {
    let [_, a, b, c] = number.to_be_bytes();
    let source = SocketAddr::new(Ipv4Addr::new(10, 211, 1 + a, b).into(), 1024 + u16::from(c));
    Flow { source, destination: address(PORT) }
}

fn key(port: u16) -> FrontendKey {
    FrontendKey { port, ..frontend(PORT, Udp) }
}

fn milliseconds(what: impl FnOnce()) -> f64 {
    let start = Instant::now();
    what();
    start.elapsed().as_secs_f64() * 1e3
}
