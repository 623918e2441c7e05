//! Which frontend port goes to which backend port.

use super::fixtures::*;
use crate::{objects::Port, plan::Reason, resolve::pairing::Pairing};

type Spec = (&'static str, u16, balancing_abi::model::Protocol);

type Pairs = [(usize, usize)];

fn pairs(frontends: &[Spec], whole: bool, backends: &[Spec]) -> Vec<(usize, usize)> {
    let (frontends, backends) = (mk_ports(frontends), mk_ports(backends));
    Pairing::of(&frontends, whole, &backends.iter().collect::<Vec<&Port>>()).pairs
}

#[test]
fn pairing_table_of_listed_ports() {
    let table: &[(&str, &[Spec], &[Spec], &Pairs)] = &[
        ("one and one, no names", &[("", 80, Tcp)], &[("", 8080, Tcp)], &[(0, 0)]),
        ("one and one, different names", &[("a", 80, Tcp)], &[("b", 8080, Tcp)], &[(0, 0)]),
        ("one and one, one name", &[("a", 80, Tcp)], &[("", 8080, Tcp)], &[(0, 0)]),
        ("one and one, other protocol", &[("a", 80, Udp)], &[("a", 80, Tcp)], &[]),
        (
            "two and two by name",
            &[("a", 1, Tcp), ("b", 2, Tcp)],
            &[("b", 20, Tcp), ("a", 10, Tcp)],
            &[(0, 1), (1, 0)],
        ),
        (
            "name needs protocol",
            &[("a", 1, Tcp), ("b", 2, Udp)],
            &[("a", 10, Tcp), ("b", 20, Tcp)],
            &[(0, 0)],
        ),
        ("one name differs", &[("a", 1, Tcp), ("b", 2, Tcp)], &[("a", 10, Tcp), ("c", 20, Tcp)], &[(0, 0)]),
        ("one frontend, two backends", &[("b", 1, Tcp)], &[("a", 10, Tcp), ("b", 20, Tcp)], &[(0, 1)]),
        ("one nameless frontend, two backends", &[("", 1, Tcp)], &[("a", 10, Tcp), ("b", 20, Tcp)], &[]),
        (
            "two frontends, one backend of a name",
            &[("a", 1, Tcp), ("b", 2, Tcp)],
            &[("b", 20, Tcp)],
            &[(1, 0)],
        ),
        ("two frontends, one nameless backend", &[("a", 1, Tcp), ("b", 2, Tcp)], &[("", 20, Tcp)], &[]),
        (
            "DNS",
            &[("dns", 53, Udp), ("dns-tcp", 53, Tcp)],
            &[("dns", 53, Udp), ("dns-tcp", 53, Tcp)],
            &[(0, 0), (1, 1)],
        ),
    ];
    for (case, frontends, backends, expected) in table {
        assert_eq!(pairs(frontends, false, backends), *expected, "{case}");
    }
}

#[test]
fn pairing_table_of_a_whole_service() {
    let service: &[Spec] = &[("dns", 53, Udp), ("dns-tcp", 53, Tcp), ("metrics", 9153, Tcp)];
    let table: &[(&str, &[Spec], &Pairs)] = &[
        ("one TCP backend serves every TCP port", &[("x", 1, Tcp)], &[(1, 0), (2, 0)]),
        ("one UDP backend serves every UDP port", &[("", 1, Udp)], &[(0, 0)]),
        ("several by Service port name", &[("dns", 53, Udp), ("dns-tcp", 53, Tcp)], &[(0, 0), (1, 1)]),
        ("several, wrong protocol", &[("dns", 53, Tcp), ("dns-tcp", 53, Tcp)], &[(1, 1)]),
    ];
    for (case, backends, expected) in table {
        assert_eq!(pairs(service, true, backends), *expected, "{case}");
    }
    assert_eq!(pairs(&[("", 80, Tcp)], true, &[("a", 1, Tcp), ("b", 2, Tcp)]), [], "nameless Service port");
}

#[test]
fn single_named_port_redirects_whatever_the_names() {
    let policy =
        mk_local("p", at_address("169.254.0.90", &[("front", 8080, Tcp)]), web_pods(&[("back", 80, Tcp)]));
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.ports = vec![mk_container_port("other", 80, None)];
    let lab = Lab::of([policy.into(), pod.into()]);
    assert_eq!(lab.shows(key("169.254.0.90", 8080, Tcp)), "10.0.0.1:80");
}

#[test]
fn named_ports_keep_apart() {
    let front = at_address("169.254.0.90", &[("p1", 8080, Tcp), ("p2", 80, Tcp)]);
    let policy = mk_local("p", front, web_pods(&[("p1", 50, Tcp), ("p2", 51, Tcp)]));
    let lab = Lab::of([policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("169.254.0.90", 8080, Tcp)), "10.0.0.1:50");
    assert_eq!(lab.shows(key("169.254.0.90", 80, Tcp)), "10.0.0.1:51");
}

#[test]
fn unpaired_ports_are_listed_and_left_alone_while_the_others_work() {
    let front = at_address("169.254.0.90", &[("a", 1, Tcp), ("b", 2, Tcp)]);
    let policy = mk_local("p", front, web_pods(&[("a", 10, Tcp), ("c", 30, Udp)]));
    let lab = Lab::of([policy.into(), mk_pod("x", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("169.254.0.90", 1, Tcp)), "10.0.0.1:10");
    assert_eq!(lab.shows(key("169.254.0.90", 2, Tcp)), "-");
    let verdict = lab.verdict(&local("p"));
    assert!(verdict.accepted && !verdict.resolved_refs);
    assert_eq!(verdict.reason, Reason::PortsNotPaired);
    assert!(verdict.message.contains("b (2/TCP)"), "{}", verdict.message);
    assert!(verdict.message.contains("serve no frontend port: c (30/UDP)"), "{}", verdict.message);
    assert!(!verdict.message.contains("a (1/TCP)"), "{}", verdict.message);
}

#[test]
fn protocol_that_differs_pairs_nothing() {
    let policy = mk_local("p", at_address("169.254.0.90", &[("", 53, Udp)]), web_pods(&[("", 53, Tcp)]));
    let lab = Lab::of([policy.into(), mk_pod("x", &["10.0.0.1"]).into()]);
    assert!(lab.entries().is_empty());
    assert_eq!(lab.verdict(&local("p")).reason, Reason::PortsNotPaired);
    assert!(lab.verdict(&local("p")).message.contains("53/UDP"));
}

#[test]
fn renaming_a_backend_port_drops_that_port_only_and_back() {
    let service = mk_service("s", &["10.96.0.1"], &[("http", 80, Tcp), ("https", 443, Tcp)]);
    let policy =
        |name| mk_local("p", at_service("s", &[]), web_pods(&[("http", 8080, Tcp), (name, 8443, Tcp)]));
    let mut lab = Lab::of([service.into(), policy("https").into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("10.96.0.1", 443, Tcp)), "10.0.0.1:8443");
    let delta = lab.put(policy("tls"));
    assert_eq!(delta.entries.len(), 1, "the other port is not rewritten");
    assert_eq!(lab.shows(key("10.96.0.1", 443, Tcp)), "-");
    assert_eq!(lab.shows(key("10.96.0.1", 80, Tcp)), "10.0.0.1:8080");
    lab.put(policy("https"));
    assert_eq!(lab.shows(key("10.96.0.1", 443, Tcp)), "10.0.0.1:8443");
}

#[test]
fn service_port_renamed_in_the_service_follows() {
    let service = |name| mk_service("s", &["10.96.0.1"], &[("a", 80, Tcp), (name, 443, Tcp)]);
    let policy = mk_local("p", at_service("s", &[]), web_pods(&[("a", 8080, Tcp), ("b", 8443, Tcp)]));
    let mut lab = Lab::of([service("x").into(), policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("10.96.0.1", 443, Tcp)), "-");
    lab.put(service("b"));
    assert_eq!(lab.shows(key("10.96.0.1", 443, Tcp)), "10.0.0.1:8443");
    assert_eq!(lab.verdict(&local("p")).reason, Reason::Applied);
}
