//! Which addresses and ports a policy claims.

use super::fixtures::*;
use crate::{objects::RedirectMode::PodEndpoint, plan::Reason};

#[test]
fn whole_service_two_protocols_dual_stack_redirects_all_four_frontends() {
    let service = mk_service("s", &["10.96.0.1", "fd00::1"], &[("tcp", 70, Tcp), ("udp", 70, Udp)]);
    let policy = mk_local("p", at_service("s", &[]), web_pods(&[("tcp", 70, Tcp), ("udp", 71, Udp)]));
    let mut lab = Lab::of([
        service.clone().into(),
        policy.clone().into(),
        mk_pod("a", &["10.0.0.1", "fd01::1"]).into(),
    ]);
    assert_eq!(lab.shows(key("10.96.0.1", 70, Tcp)), "10.0.0.1:70");
    assert_eq!(lab.shows(key("10.96.0.1", 70, Udp)), "10.0.0.1:71");
    assert_eq!(lab.shows(key("fd00::1", 70, Tcp)), "[fd01::1]:70");
    assert_eq!(lab.shows(key("fd00::1", 70, Udp)), "[fd01::1]:71");
    assert_eq!(lab.verdict(&local("p")).backends, 4);
    assert_eq!(lab.verdict(&local("p")).frontends.len(), 4);
    assert_eq!(lab.delete(policy).entries.len(), 4, "deleting the policy restores the Service");
}

#[test]
fn service_deleted_and_created_under_an_active_policy() {
    let service = mk_service("s", &["10.96.0.1"], &[("", 80, Tcp)]);
    let policy = mk_local("p", at_service("s", &[]), web_pods(&[("", 8080, Tcp)]));
    let mut lab = Lab::of([service.clone().into(), policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    lab.delete(service.clone());
    assert!(lab.entries().is_empty());
    let verdict = lab.verdict(&local("p"));
    assert_eq!((verdict.accepted, verdict.resolved_refs), (true, false));
    assert_eq!(verdict.reason, Reason::ServiceNotFound);
    assert!(verdict.message.contains("default/s"), "{}", verdict.message);
    lab.put(mk_service("s", &["10.96.0.2"], &[("", 80, Tcp)]));
    assert_eq!(lab.shows(key("10.96.0.1", 80, Tcp)), "-");
    assert_eq!(lab.shows(key("10.96.0.2", 80, Tcp)), "10.0.0.1:8080");
}

#[test]
fn headless_and_external_name_services_are_unsupported() {
    let policy = mk_local("p", at_service("s", &[]), web_pods(&[("", 8080, Tcp)]));
    let mut headless = mk_service("s", &[], &[("", 80, Tcp)]);
    headless.headless = true;
    let mut lab = Lab::of([headless.clone().into(), policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    let verdict = lab.verdict(&local("p"));
    assert_eq!((verdict.reason, verdict.resolved_refs), (Reason::UnsupportedService, false));
    assert!(verdict.message.contains("headless"), "{}", verdict.message);
    let mut external = headless;
    (external.headless, external.external_name) = (false, true);
    lab.put(external);
    assert_eq!(lab.verdict(&local("p")).reason, Reason::UnsupportedService);
    lab.put(mk_service("s", &[], &[("", 80, Tcp)]));
    assert!(lab.verdict(&local("p")).message.contains("no address"), "a ClusterIP that is still to come");
    assert!(lab.entries().is_empty());
}

#[test]
fn local_redirect_takes_cluster_ips_and_balancing_the_outer_addresses_too() {
    let mut service = mk_service("s", &["10.96.0.1"], &[("", 80, Tcp)]);
    service.external_ips = ips(&["192.0.2.1"]);
    service.load_balancer_ips = ips(&["198.51.100.1"]);
    let frontend = || at_service("s", &[]);
    let redirect = mk_local("l", frontend(), web_pods(&[("", 1, Tcp)]));
    let policy = mk_balancing("b", frontend(), web_pods(&[("", 2, Tcp)]), PodEndpoint);
    let lab = Lab::of([service.into(), redirect.into(), policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("10.96.0.1", 80, Tcp)), "10.0.0.1:1");
    assert_eq!(lab.second(key("10.96.0.1", 80, Tcp)), "10.0.0.1:2");
    assert_eq!(lab.shows(key("192.0.2.1", 80, Tcp)), "10.0.0.1:2");
    assert_eq!(lab.shows(key("198.51.100.1", 80, Tcp)), "10.0.0.1:2");
    assert_eq!(lab.verdict(&local("l")).frontends.len(), 1);
    assert_eq!(lab.verdict(&balancing("b")).frontends.len(), 3);
}

#[test]
fn listed_ports_are_redirected_and_unlisted_ones_untouched() {
    let ports = [("dns", 53, Udp), ("dns-tcp", 53, Tcp), ("metrics", 9153, Tcp)];
    let service = mk_service("kube-dns", &["10.96.0.10"], &ports);
    let policy = mk_local("p", at_service("kube-dns", &ports[..2]), web_pods(&ports[..2]));
    let lab = Lab::of([service.into(), policy.into(), mk_pod("cache", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("10.96.0.10", 53, Udp)), "10.0.0.1:53");
    assert_eq!(lab.shows(key("10.96.0.10", 53, Tcp)), "10.0.0.1:53");
    assert_eq!(lab.shows(key("10.96.0.10", 9153, Tcp)), "-");
    assert_eq!(lab.verdict(&local("p")).reason, Reason::Applied);
}

#[test]
fn listed_names_are_the_policys_not_the_services() {
    let service = mk_service("s", &["10.96.0.1"], &[("x", 8080, Tcp), ("y", 80, Tcp)]);
    let front = at_service("s", &[("p1", 8080, Tcp), ("p2", 80, Tcp)]);
    let policy = mk_local("p", front, web_pods(&[("p1", 1, Tcp), ("p2", 2, Tcp)]));
    let lab = Lab::of([service.into(), policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("10.96.0.1", 8080, Tcp)), "10.0.0.1:1");
    assert_eq!(lab.shows(key("10.96.0.1", 80, Tcp)), "10.0.0.1:2");
}

#[test]
fn port_that_the_service_does_not_have_is_not_created() {
    let service = |ports| mk_service("s", &["10.96.0.1"], ports);
    let policy = mk_local("p", at_service("s", &[("", 81, Tcp)]), web_pods(&[("", 8080, Tcp)]));
    let mut lab =
        Lab::of([service(&[("", 81, Udp)]).into(), policy.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert!(lab.entries().is_empty());
    let verdict = lab.verdict(&local("p"));
    assert_eq!(verdict.reason, Reason::PortsNotPaired);
    assert!(verdict.message.contains("does not have: 81/TCP"), "{}", verdict.message);
    lab.put(service(&[("", 81, Udp), ("t", 81, Tcp)]));
    assert_eq!(lab.shows(key("10.96.0.1", 81, Tcp)), "10.0.0.1:8080");
    assert_eq!(lab.verdict(&local("p")).reason, Reason::Applied);
}

#[test]
fn service_without_usable_ports_pairs_nothing() {
    let policy = mk_local("p", at_service("s", &[]), web_pods(&[("", 8080, Tcp)]));
    let lab = Lab::of([mk_service("s", &["10.96.0.1"], &[]).into(), policy.into()]);
    assert_eq!(lab.verdict(&local("p")).reason, Reason::PortsNotPaired);
}

#[test]
fn address_of_a_cluster_ip_belongs_to_the_policy_without_complaint() {
    let service = mk_service("kube-dns", &["10.96.0.10"], &[("dns", 53, Udp)]);
    let policy = mk_local("p", at_address("10.96.0.10", &[("", 53, Udp)]), web_pods(&[("", 53, Udp)]));
    let mut lab = Lab::of([service.into(), policy.clone().into()]);
    assert_eq!(lab.shows(key("10.96.0.10", 53, Udp)), "-", "no backend, the Service is untouched");
    lab.put(mk_pod("a", &["10.0.0.1"]));
    assert_eq!(lab.shows(key("10.96.0.10", 53, Udp)), "10.0.0.1:53");
    let verdict = lab.verdict(&local("p"));
    assert_eq!((verdict.reason, verdict.conflicts_with.len()), (Reason::Applied, 0));
    lab.delete(policy);
    assert!(lab.entries().is_empty());
}

#[test]
fn changed_address_moves_the_redirect() {
    let policy = |address| mk_local("p", at_address(address, &[("", 80, Tcp)]), web_pods(&[("", 80, Tcp)]));
    let mut lab = Lab::of([policy("169.254.0.1").into(), mk_pod("a", &["10.0.0.1"]).into()]);
    let delta = lab.put(policy("169.254.0.2"));
    assert_eq!(delta.entries.len(), 2);
    assert_eq!(lab.shows(key("169.254.0.1", 80, Tcp)), "-");
    assert_eq!(lab.shows(key("169.254.0.2", 80, Tcp)), "10.0.0.1:80");
}

#[test]
fn tcp_and_udp_of_one_port_number_are_two_frontends() {
    let tcp = mk_local("t", at_address("169.254.0.1", &[("", 53, Tcp)]), web_pods(&[("", 1, Tcp)]));
    let udp = mk_local("u", at_address("169.254.0.1", &[("", 53, Udp)]), web_pods(&[("", 2, Udp)]));
    let lab = Lab::of([tcp.into(), udp.into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert_eq!(lab.shows(key("169.254.0.1", 53, Tcp)), "10.0.0.1:1");
    assert_eq!(lab.shows(key("169.254.0.1", 53, Udp)), "10.0.0.1:2");
    assert!(lab.verdict(&local("u")).conflicts_with.is_empty());
}
