//! The proxy's decisions, frame by frame: what passes and how it is changed, what is dropped and why.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use balancing_dataplane::{
    model::Protocol::{Tcp, Udp},
    proxy::Direction::{Egress, Ingress},
};
use balancing_tests::{
    frames::{
        Complaint, Flow, ends, finish, inside, is_sound, pieces,
        tcp::{ACK, FIN, RST, SYN},
    },
    proxied::{Trial, service},
    require_kernel,
};

/// A client's flow to the own address, the backend, and the flow as the pod sees it.
struct Case {
    port: &'static str,
    called: Flow,
    backend: &'static str,
    served: Flow,
}

fn cases() -> [Case; 2] {
    let case = |client: &'static str, port: &'static str, backend: &'static str| Case {
        port,
        called: Flow::new(client, port),
        backend,
        served: Flow::new(client, backend),
    };
    [
        case("10.211.0.2:4000", "10.211.0.1:20080", "10.244.1.1:80"),
        case("[fd11::2]:4000", "[fd11::1]:20080", "[fd44:1::1]:80"),
    ]
}

fn trial(topic: &str) -> Trial {
    let mut trial = Trial::new(topic);
    for case in cases() {
        trial.declare(case.port, Tcp, &service(&[case.backend]));
        trial.declare(case.port, Udp, &service(&[case.backend]));
    }
    trial
}

/// Has the flow of a frame as it went on, with checksums that are right.
#[track_caller]
fn went_on(frame: &[u8]) -> Flow {
    assert!(is_sound(frame), "{frame:02x?}");
    ends(frame).unwrap()
}

#[test]
fn a_packet_is_led_to_the_pod_and_its_answer_back() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames");
    for Case { called, served, .. } in cases() {
        for (sent, answer) in [
            (called.udp(b"question"), served.back().udp(b"answer")),
            (called.tcp(SYN, b""), served.back().tcp(SYN | ACK, b"")),
        ] {
            let passed = trial.pass(Ingress, &sent);
            assert_eq!((went_on(&passed), passed.len()), (served, sent.len()));
            assert_eq!(went_on(&trial.pass(Egress, &answer)), called.back());
        }
        assert_eq!(went_on(&trial.pass(Ingress, &called.tcp(ACK, b"data"))), served);
    }
    let counters = trial.counters();
    assert_eq!((counters.proxied, counters.started), (4, 0));
}

#[test]
fn a_datagram_without_a_checksum_keeps_none() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames-zero");
    let [Case { called, served, .. }, _] = cases();
    let mut sent = called.udp(b"question");
    sent[40..42].fill(0);
    let passed = trial.pass(Ingress, &sent);
    assert_eq!((went_on(&passed), &passed[40..42]), (served, &[0, 0][..]));
}

#[test]
fn what_is_not_declared_is_dropped_with_the_reason() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames-drops");
    for Case { called, served, .. } in cases() {
        let v4 = called.source.is_ipv4();
        let dropped = |frame: &[u8]| trial.drop_reason(Ingress, frame);
        let at = |port: u16| {
            let mut to = called.destination;
            to.set_port(port);
            called.to(to)
        };
        assert_eq!(dropped(&at(22).tcp(SYN, b"")), "undeclared_port");
        assert_eq!(dropped(&at(22).udp(b"")), "undeclared_port");
        assert_eq!(dropped(&served.udp(b"")), "not_for_us");
        assert_eq!(dropped(&called.tcp(ACK, b"")), "no_connection");
        assert_eq!(dropped(&called.tcp(SYN | ACK, b"")), "no_connection");
        assert_eq!(dropped(&called.tcp(RST, b"")), "no_connection");
        assert_eq!(dropped(&called.tcp(SYN | FIN, b"")), "no_connection");
        let nobodies: &[&str] = match v4 {
            true => &["0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1", "10.211.0.1:1"],
            false => &["[::]:1", "[::1]:1", "[ff02::1]:1", "[::ffff:10.211.0.2]:1", "[fd11::1]:1"],
        };
        for nobody in nobodies {
            let source = balancing_tests::address(nobody);
            let forged = Flow { source, ..called };
            if source.is_ipv4() == v4 {
                assert_eq!(dropped(&forged.udp(b"")), "bad_source", "{nobody}");
            }
        }
        assert_eq!(dropped(&called.frame(132, vec![0; 64])), "unsupported");
        assert_eq!(dropped(&called.icmp(&[if v4 { 13 } else { 135 }, 0, 0, 0, 0, 0, 0, 0])), "unsupported");
        let stray = at(9).back().udp(b"never sent");
        assert_eq!(dropped(&called.complains(Complaint::PortUnreachable, &stray)), "unrelated_icmp");
        let mut other = called.udp(b"");
        other[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(dropped(&other), "not_ip");
        let mut long = called.udp(b"");
        long[if v4 { 17 } else { 19 }] += 1;
        assert_eq!(dropped(&long), "malformed");
    }
    assert_eq!(trial.counters().proxied, 0);
}

#[test]
fn a_packet_that_names_its_own_way_is_dropped() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames-route");
    let [ipv4, ipv6] = cases();
    // A loose source route over another pod: a host that allows it would follow that and not the proxy.
    let sent = ipv4.called.udp(b"");
    let route = [131, 7, 4, 10, 244, 1, 9, 0];
    let mut routed = [&sent[..34], &route, &sent[34..]].concat();
    routed[14] = 0x47;
    finish(&mut routed);
    assert_eq!(trial.drop_reason(Ingress, &routed), "unsupported");
    let sent = ipv6.called.udp(b"");
    let route = [17, 2, 0, 1, 0, 0, 0, 0, 0xfd, 0x44, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let mut routed = [&sent[..54], &route, &sent[54..]].concat();
    routed[20] = 43;
    finish(&mut routed);
    assert_eq!(trial.drop_reason(Ingress, &routed), "unsupported");
}

#[test]
fn a_service_without_backends_drops_and_so_does_a_host_without_an_address() {
    if !require_kernel() {
        return;
    }
    let mut trial = trial("frames-none");
    for Case { port, called, served, .. } in cases() {
        trial.declare(port, Udp, &service(&[]));
        assert_eq!(trial.drop_reason(Ingress, &called.udp(b"")), "no_backend");
        trial.declare(port, Udp, &service(&[&served.destination.to_string()]));
        _ = trial.pass(Ingress, &called.udp(b""));
    }
    trial.proxy.set_local(&Default::default()).unwrap();
    for Case { called, .. } in cases() {
        assert_eq!(trial.drop_reason(Ingress, &called.udp(b"")), "not_for_us");
        assert_eq!(trial.drop_reason(Egress, &called.back().udp(b"")), "no_address");
    }
}

#[test]
fn pieces_follow_the_first_one() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames-pieces");
    for Case { called, served, .. } in cases() {
        let data = [5; 100];
        let cut = pieces(&called.udp(&data), 32);
        assert_eq!(trial.drop_reason(Ingress, &cut[1]), "early_fragment");
        let passed: Vec<_> = cut.iter().map(|piece| trial.pass(Ingress, piece)).collect();
        assert_eq!(passed, pieces(&served.udp(&data), 32));
        let cut = pieces(&served.back().udp(&data), 32);
        let passed: Vec<_> = cut.iter().map(|piece| trial.pass(Egress, piece)).collect();
        assert_eq!(passed, pieces(&called.back().udp(&data), 32));
        // Nothing is put over ports that were looked at: here the rest of the header of TCP.
        let syn = pieces(&called.tcp(SYN, &[0; 36]), 24);
        assert_eq!(trial.drop_reason(Ingress, &pieces(&called.tcp(SYN, &[0; 36]), 8)[0]), "malformed");
        _ = trial.pass(Ingress, &syn[0]);
        assert_eq!(trial.drop_reason(Ingress, &pieces(&called.tcp(SYN, &[0; 36]), 16)[1]), "malformed");
        _ = trial.pass(Ingress, &syn[1]);
    }
}

#[test]
fn errors_are_translated_in_both_directions() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames-errors");
    for Case { called, served, .. } in cases() {
        let about = trial.pass(Ingress, &called.udp(b"question"));
        for complaint in [Complaint::PortUnreachable, Complaint::TooBig(1400)] {
            // The pod, or the host in front of it, does not like the question.
            let told = trial.pass(Egress, &served.back().complains(complaint, &about));
            assert!(is_sound(&told));
            let host = went_on(&told);
            assert_eq!(
                (host.source.ip(), host.destination.ip()),
                (called.destination.ip(), called.source.ip())
            );
            assert_eq!(ends(&inside(&told)), Some(called));
            // The client does not like the answer.
            let answer = trial.pass(Egress, &served.back().udp(b"answer"));
            let told = trial.pass(Ingress, &called.complains(complaint, &answer));
            let to = went_on(&told);
            assert_eq!((to.source.ip(), to.destination.ip()), (called.source.ip(), served.destination.ip()));
            assert_eq!(ends(&inside(&told)), Some(served.back()));
        }
        assert_eq!(went_on(&trial.pass(Ingress, &called.echo())).destination.ip(), called.destination.ip());
    }
}

#[test]
fn what_leaves_bears_the_own_address_and_another_port_where_one_is_taken() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames-snat");
    for (pods, far, own) in [
        (["10.244.1.1:5000", "10.244.1.2:5000"], "10.211.0.2:80", "10.211.0.1:5000"),
        (["[fd44:1::1]:5000", "[fd44:1::2]:5000"], "[fd11::2]:80", "[fd11::1]:5000"),
    ] {
        let flows = pods.map(|pod| Flow::new(pod, far));
        let seen = flows.map(|flow| went_on(&trial.pass(Egress, &flow.tcp(SYN, b""))));
        assert_eq!(seen[0], Flow::new(own, far));
        assert_eq!((seen[1].source.ip(), seen[1].destination), (seen[0].source.ip(), seen[0].destination));
        assert_ne!(seen[1].source.port(), 5000);
        for (flow, seen) in flows.iter().zip(seen) {
            assert_eq!(went_on(&trial.pass(Ingress, &seen.back().tcp(SYN | ACK, b""))), flow.back());
            assert_eq!(went_on(&trial.pass(Egress, &flow.tcp(ACK, b"x"))), seen);
        }
        // The middle of a pod's connection that nobody knows; one of the host may be older than the program.
        assert_eq!(trial.drop_reason(Egress, &flows[0].from_port(9).tcp(ACK, b"")), "no_connection");
        let old = Flow::new(own, far).from_port(9);
        assert_eq!(went_on(&trial.pass(Egress, &old.tcp(ACK, b""))), old);
        assert_eq!(went_on(&trial.pass(Ingress, &old.back().tcp(ACK, b""))), old.back());
    }
}

#[test]
fn a_frame_longer_than_its_packet_passes_as_it_is() {
    if !require_kernel() {
        return;
    }
    let trial = trial("frames-padded");
    for Case { called, served, .. } in cases() {
        let sent = called.udp(b"");
        let padded = [&sent[..], &[0; 18]].concat();
        let passed = trial.pass(Ingress, &padded);
        assert_eq!((went_on(&passed[..sent.len()]), passed.len()), (served, padded.len()));
        let mut finished = padded;
        finish(&mut finished);
        _ = trial.pass(Ingress, &finished);
    }
}
