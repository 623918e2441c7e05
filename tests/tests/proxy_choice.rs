//! Which backend the proxy chooses, and how long it remembers: weights, affinity, the ends of connections.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use balancing_dataplane::{
    model::Protocol::{Tcp, Udp},
    proxy::{
        Direction::{Egress, Ingress},
        Service,
    },
};
use balancing_tests::{
    address,
    frames::{
        Flow, ends,
        tcp::{ACK, FIN, RST, SYN},
    },
    proxied::{Trial, backend, frontend, service},
    require_kernel, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: &str = "10.211.0.1:20080";
const A: &str = "10.244.1.1:80";
const B: &str = "10.244.1.2:80";
const C: &str = "10.244.1.3:80";

/// A flow of a client of 10.211.0.0/16 from a port.
fn flow(client: u16, port: u16) -> Flow {
    let [high, low] = client.to_be_bytes();
    Flow { source: SocketAddr::from(([10, 211, high, low], port)), destination: address(PORT) }
}

fn with_affinity(backends: &[&str], seconds: u32) -> Service {
    Service { affinity: NonZeroU32::new(seconds), ..service(backends) }
}

/// Where a frame ends.
#[track_caller]
fn led(trial: &Trial, frame: &[u8]) -> SocketAddr {
    ends(&trial.pass(Ingress, frame)).unwrap().destination
}

#[test]
fn backends_get_their_share_by_weight() {
    if !require_kernel() {
        return;
    }
    const DRAWN: u32 = 12_000;
    let weights = [(A, 1), (B, 2), (C, 5), ("10.244.1.4:80", 0)];
    let mut trial = Trial::new("choice-weights");
    let backends = weights.iter().map(|(at, weight)| backend(at, *weight)).collect();
    trial.declare(PORT, Udp, &Service { backends, ..service(&[]) });
    let mut counts = BTreeMap::<SocketAddr, u32>::new();
    for number in 0..DRAWN {
        let from = flow(2 + (number / 6000) as u16, 1000 + (number % 6000) as u16);
        *counts.entry(led(&trial, &from.udp(b""))).or_default() += 1;
    }
    let square = |(at, weight): &(&str, u32)| {
        let expected = f64::from(DRAWN * weight) / 8.0;
        (f64::from(counts[&address(at)]) - expected).powi(2) / expected
    };
    let chi: f64 = weights[..3].iter().map(square).sum();
    assert!(chi < 27.6, "χ² = {chi} with two degrees of freedom, 1 in a million: {counts:?}");
    assert_eq!(counts.len(), 3, "weight 0 gets nothing new: {counts:?}");
}

#[test]
fn a_client_keeps_its_backend_while_that_is_there() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-affinity");
    trial.declare(PORT, Udp, &with_affinity(&[A, B, C], 3600));
    let kept: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, 1).udp(b""))).collect();
    for port in 2..12 {
        let again: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, port).udp(b""))).collect();
        assert_eq!(again, kept);
    }
    assert!([A, B, C].iter().all(|at| kept.contains(&address(at))), "{kept:?}");
    // One is gone: its clients move and stay there, the others do not.
    trial.declare(PORT, Udp, &with_affinity(&[A, C], 3600));
    let moved: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, 100).udp(b""))).collect();
    let again: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, 101).udp(b""))).collect();
    assert_eq!(moved, again);
    for (before, after) in kept.iter().zip(&moved) {
        assert!(if *before == address(B) { after != before } else { after == before });
    }
    // A newer agent changes nothing of that.
    trial.reload(balancing_tests::proxied::SIZES);
    let again: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, 102).udp(b""))).collect();
    assert_eq!(moved, again);
}

#[test]
fn affinity_ends_with_its_time() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-time");
    trial.declare(PORT, Udp, &with_affinity(&[A, B], 1));
    let before: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, 1).udp(b""))).collect();
    let asked = Instant::now();
    // Whoever comes back within the second keeps its backend, so nobody asks before. Ticks are as coarse as the second.
    wait_until(PATIENCE, || asked.elapsed() > Duration::from_millis(2500));
    let after: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, 2).udp(b""))).collect();
    assert_ne!(after, before);
}

#[test]
fn a_connection_that_has_ended_makes_room_for_a_new_one_from_the_same_port() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-ends");
    trial.declare(PORT, Tcp, &service(&[A]));
    let called = flow(2, 4000);
    let served = |at: &str| called.to(address(at)).back();
    let establish = |trial: &Trial, at: &str| {
        assert_eq!(led(trial, &called.tcp(SYN, b"")), address(at));
        _ = trial.pass(Egress, &served(at).tcp(SYN | ACK, b""));
        assert_eq!(led(trial, &called.tcp(ACK, b"")), address(at));
    };
    establish(&trial, A);
    assert_eq!(led(&trial, &called.tcp(FIN | ACK, b"")), address(A));
    assert_eq!(led(&trial, &called.tcp(SYN, b"")), address(A), "half closed is not closed");
    trial.declare(PORT, Tcp, &service(&[B]));
    // It drains: what belongs to it goes on, also after the client's FIN.
    assert_eq!(led(&trial, &called.tcp(ACK, b"")), address(A));
    _ = trial.pass(Egress, &served(A).tcp(ACK, b"half closed"));
    _ = trial.pass(Egress, &served(A).tcp(FIN | ACK, b""));
    assert_eq!(led(&trial, &called.tcp(ACK, b"")), address(A), "the last word");
    establish(&trial, B);
    // What is left of the old one is not taken for the new one.
    assert_eq!(trial.drop_reason(Egress, &served(A).tcp(ACK, b"late")), "no_connection");
    trial.declare(PORT, Tcp, &service(&[C]));
    assert_eq!(led(&trial, &called.tcp(RST, b"")), address(B));
    establish(&trial, C);
    assert_eq!(trial.counters().proxied, 3);
}

#[test]
fn two_ports_that_lead_to_one_backend_are_kept_apart() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-apart");
    const OTHER: &str = "10.211.0.1:20081";
    trial.declare(PORT, Udp, &service(&[A]));
    trial.declare(OTHER, Udp, &service(&[A]));
    let called = [flow(2, 4000), flow(2, 4000).to(address(OTHER))];
    let seen = called.map(|flow| ends(&trial.pass(Ingress, &flow.udp(b""))).unwrap());
    assert_eq!((seen[0].source, seen[1].source.ip()), (called[0].source, called[1].source.ip()));
    assert_ne!(seen[0].source.port(), seen[1].source.port());
    for (seen, called) in seen.into_iter().zip(called) {
        assert_eq!(ends(&trial.pass(Egress, &seen.back().udp(b""))), Some(called.back()));
    }
}

#[test]
fn packets_leave_a_backend_that_is_gone_without_a_sweep_and_tcp_drains() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-gone");
    for protocol in [Tcp, Udp] {
        trial.declare(PORT, protocol, &service(&[A]));
    }
    let (datagram, segment) = (flow(2, 4000), flow(2, 4000));
    assert_eq!(led(&trial, &datagram.udp(b"")), address(A));
    assert_eq!(led(&trial, &segment.tcp(SYN, b"")), address(A));
    _ = trial.pass(Egress, &segment.to(address(A)).back().tcp(SYN | ACK, b""));
    for protocol in [Tcp, Udp] {
        trial.declare(PORT, protocol, &service(&[B]));
    }
    assert_eq!(led(&trial, &datagram.udp(b"")), address(B));
    assert_eq!(led(&trial, &segment.tcp(ACK, b"")), address(A));
    trial.proxy.remove(&frontend(PORT, Udp)).unwrap();
    assert_eq!(trial.drop_reason(Ingress, &datagram.udp(b"")), "undeclared_port");
    assert_eq!(led(&trial, &segment.tcp(ACK, b"")), address(A));
    // What is not asked for keeps its backend, whatever else leaves.
    trial.declare(PORT, Udp, &service(&[A, B, C]));
    let first: Vec<_> = (2..40).map(|client| led(&trial, &flow(client, 1).udp(b""))).collect();
    trial.declare(PORT, Udp, &service(&[A, B]));
    for (client, first) in (2..40).zip(first) {
        let now = led(&trial, &flow(client, 1).udp(b""));
        assert!(now == first || first == address(C), "{now} after {first}");
        assert_eq!(led(&trial, &flow(client, 1).udp(b"")), now);
    }
}

#[test]
fn an_agent_that_takes_over_tells_what_an_earlier_one_could_not() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-told");
    trial.declare(PORT, Udp, &service(&[A]));
    assert_eq!(led(&trial, &flow(2, 4000).udp(b"")), address(A));
    trial.declare(PORT, Udp, &service(&[B]));
    trial.reload(balancing_tests::proxied::SIZES);
    assert_eq!(led(&trial, &flow(2, 4000).udp(b"")), address(B));
}

#[test]
fn a_client_that_begins_anew_leaves_a_pod_that_is_gone_and_asks_one_that_is_there() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-anew");
    trial.declare(PORT, Tcp, &service(&[A]));
    let called = flow(2, 4000);
    let served = |at: &str| called.to(address(at)).back();
    let establish = |trial: &Trial, at: &str| {
        assert_eq!(led(trial, &called.tcp(SYN, b"")), address(at));
        _ = trial.pass(Egress, &served(at).tcp(SYN | ACK, b""));
        assert_eq!(led(trial, &called.tcp(ACK, b"")), address(at));
    };
    establish(&trial, A);
    // The client's host was reset and takes the port once more. The pod that is there tells it what it still knows of, and the client ends
    // that.
    assert_eq!(led(&trial, &called.tcp(SYN, b"")), address(A));
    assert_eq!(ends(&trial.pass(Egress, &served(A).tcp(ACK, b""))), Some(called.back()));
    assert_eq!(led(&trial, &called.tcp(RST, b"")), address(A));
    establish(&trial, A);
    assert_eq!(trial.counters().proxied, 2);
    // A pod that is gone would never answer.
    trial.declare(PORT, Tcp, &service(&[B]));
    assert_eq!(led(&trial, &called.tcp(ACK, b"drains")), address(A));
    establish(&trial, B);
    assert_eq!(trial.drop_reason(Egress, &served(A).tcp(ACK, b"late")), "no_connection");
    trial.declare(PORT, Tcp, &service(&[]));
    assert_eq!(trial.drop_reason(Ingress, &called.tcp(SYN, b"")), "no_backend");
}

#[test]
fn a_connection_that_nobody_answered_leaves_a_backend_that_is_gone() {
    if !require_kernel() {
        return;
    }
    let mut trial = Trial::new("choice-unanswered");
    trial.declare(PORT, Tcp, &service(&[A]));
    let called = flow(2, 4000);
    assert_eq!(led(&trial, &called.tcp(SYN, b"")), address(A));
    trial.declare(PORT, Tcp, &service(&[B]));
    assert_eq!(led(&trial, &called.tcp(SYN, b"")), address(B), "the same SYN once more");
}
