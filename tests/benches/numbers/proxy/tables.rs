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
    report.at_most("one port more", median(&mut more), "ms", 20.0);
    report.at_most("one port less", median(&mut less), "ms", 20.0);
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

/// A backend leaves while the table of connections is full, and a part of the sweep over it.
fn full(report: &mut Report) {
    let mut trial = Trial::with("bench-full", Sizes::default());
    let services = [service(&PODS), service(&PODS[..1])];
    let key = frontend(PORT, Udp);
    trial.proxy.publish(key, &services[0]).expect("there is room");
    let connections = Sizes::default().connections / 2;
    for number in 0..connections {
        _ = trial.proxy.try_frame(Ingress, &flow(number).udp(b"")).expect("a frame is tried");
    }
    let mut turn = 0;
    let mut change = |trial: &mut Trial| {
        turn += 1;
        let services: &[Service; 2] = &services;
        milliseconds(|| trial.proxy.publish(key, &services[turn % 2]).expect("there is room"))
    };
    let mut changes: Vec<f64> = (0..RUNS * 2).map(|_| change(&mut trial)).collect();
    let name = format!("a pod leaves or comes, {connections} connections");
    report.at_most(&name, median(&mut changes), "ms", 20.0);
    let mut parts = Vec::new();
    let mut complete = false;
    while !complete {
        parts.push(milliseconds(|| complete = trial.proxy.sweep().expect("the table is read").complete));
    }
    report.tell("parts of a sweep over those", parts.len() as f64, "");
    report.at_most("the longest part", parts.iter().copied().fold(f64::NAN, f64::max), "ms", 20.0);
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
