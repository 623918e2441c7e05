//! Backends of BalancingPolicies: pods anywhere, node addresses, proxies, custom addresses.

use super::fixtures::*;
use crate::{
    objects::{
        BackendSpec, OnNoBackend, Pod, Policy, PortRef,
        RedirectMode::{HostPort, NodeProxy, PodEndpoint},
        WeightedAddress,
    },
    plan::Reason,
};

const FRONT: &str = "169.254.0.90";

fn front() -> crate::objects::FrontendSpec {
    at_address(FRONT, &[("", 80, Tcp)])
}

fn mk_there(name: &str, address: &str) -> Pod {
    Pod { node: THERE.to_owned(), ..mk_pod(name, &[address]) }
}

fn shows(lab: &Lab) -> String {
    lab.shows(key(FRONT, 80, Tcp))
}

fn message(lab: &Lab) -> String {
    lab.verdict(&balancing("b")).message.clone()
}

#[test]
fn pods_of_all_nodes_are_backends() {
    let policy = mk_balancing("b", front(), web_pods(&[("", 8080, Tcp)]), PodEndpoint);
    let mut unready = mk_there("c", "10.0.1.3");
    unready.ready = false;
    let lab = Lab::of([
        policy.into(),
        mk_pod("a", &["10.0.0.1"]).into(),
        mk_there("b", "10.0.1.2").into(),
        unready.into(),
    ]);
    assert_eq!(shows(&lab), "10.0.0.1:8080 10.0.1.2:8080");
    let backends = &lab.entry(key(FRONT, 80, Tcp)).layers[0].backends;
    assert_eq!(backends[1].node.as_deref(), Some(THERE));
    assert_eq!(backends[1].pod, Some(mk_ref("b")));
}

#[test]
fn host_port_mode_uses_node_addresses_of_pods_that_open_the_port() {
    let policy = mk_balancing("b", front(), web_pods(&[("", 20080, Tcp)]), HostPort);
    let mut open = mk_pod("open", &["10.0.0.1"]);
    open.ports = vec![mk_container_port("", 80, Some(20080))];
    let mut wrong = mk_pod("wrong", &["10.0.0.2"]);
    wrong.ports = vec![mk_container_port("", 80, Some(20081))];
    let silent = mk_pod("silent", &["10.0.0.3"]);
    let mut host = mk_there("host", "192.168.0.2");
    host.host_network = true;
    host.host_ips = ips(&["192.168.0.2"]);
    let mut lab = Lab::of([policy.into(), open.into(), wrong.into(), silent.into(), host.into()]);
    assert_eq!(shows(&lab), "192.168.0.2:20080");
    assert!(
        message(&lab).contains("no IPv4 address of the pod's node known: default/open"),
        "{}",
        message(&lab)
    );
    assert!(
        message(&lab)
            .contains("no hostPort 20080/TCP declared: default/silent, default/wrong (which has 20081/TCP)"),
        "{}",
        message(&lab)
    );
    lab.put(mk_node(HERE, &["192.168.0.1", "fd02::1"], &[]));
    assert_eq!(shows(&lab), "192.168.0.1:20080 192.168.0.2:20080");
}

#[test]
fn host_port_of_another_protocol_does_not_count() {
    let policy = mk_balancing("b", front(), web_pods(&[("", 20080, Tcp)]), HostPort);
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.host_ips = ips(&["192.168.0.1"]);
    pod.ports = vec![mk_container_port("", 80, Some(20080))];
    pod.ports[0].protocol = Udp;
    let mut lab = Lab::of([policy.into(), pod.clone().into()]);
    assert_eq!(shows(&lab), "reject");
    pod.ports[0].protocol = Tcp;
    lab.put(pod);
    assert_eq!(shows(&lab), "192.168.0.1:20080");
}

#[test]
fn way_through_a_node_needs_a_pod_address_of_the_family() {
    let frontend = at_address("fd00::90", &[("", 80, Tcp)]);
    let policy = mk_balancing("b", frontend, web_pods(&[("", 20080, Tcp)]), NodeProxy);
    let there = |ips: &[&str]| Pod { node: THERE.to_owned(), ..mk_pod("a", ips) };
    let mut lab = Lab::of([
        policy.into(),
        there(&["10.0.0.1"]).into(),
        mk_node(THERE, &[], &["192.168.9.1", "fd09::1"]).into(),
    ]);
    assert_eq!(lab.shows(key("fd00::90", 80, Tcp)), "reject");
    lab.put(there(&["10.0.0.1", "fd01::1"]));
    assert_eq!(lab.shows(key("fd00::90", 80, Tcp)), "[fd09::1]:20080");
}

#[test]
fn node_proxy_counts_a_node_once_per_pod_and_names_nodes_without_an_address() {
    let policy = mk_balancing("b", front(), web_pods(&[("", 20080, Tcp)]), NodeProxy);
    let lost = Pod { node: "node-c".to_owned(), ..mk_pod("x", &["10.0.2.1"]) };
    let mut lab = Lab::of([
        policy.into(),
        mk_there("a1", "10.0.0.1").into(),
        mk_there("a2", "10.0.0.2").into(),
        Pod { node: "node-d".to_owned(), ..mk_pod("b1", &["10.0.1.1"]) }.into(),
        lost.into(),
        mk_node(THERE, &[], &["192.168.9.1"]).into(),
        mk_node("node-d", &[], &["192.168.9.2"]).into(),
        mk_node("node-c", &[], &["fd09::3"]).into(),
    ]);
    assert_eq!(shows(&lab), "192.168.9.1:20080*2 192.168.9.2:20080");
    let why = "IPv4 proxy address in its annotation balancing.elf.io/nodeProxyIpv4, which a TunnelFabric or you write, and its own clients alone reach its pods: node-c";
    assert!(message(&lab).contains(why), "{}", message(&lab));
    let backends = &lab.entry(key(FRONT, 80, Tcp)).layers[0].backends;
    assert_eq!((backends[0].pod.clone(), backends[0].node.as_deref()), (None, Some(THERE)));
    assert_eq!(backends[1].pod, Some(mk_ref("b1")));
    lab.put(mk_node("node-c", &[], &["192.168.9.3"]));
    assert_eq!(shows(&lab), "192.168.9.1:20080*2 192.168.9.2:20080 192.168.9.3:20080");
    lab.delete(mk_node(THERE, &[], &[]));
    assert_eq!(shows(&lab), "192.168.9.2:20080 192.168.9.3:20080");
}

#[test]
fn a_client_on_the_node_of_the_pod_goes_straight_to_it() {
    let policy = mk_balancing("b", front(), web_pods(&[("", 20080, Tcp)]), NodeProxy);
    let mut pod = mk_pod("a", &["10.0.0.1"]);
    pod.ports = vec![mk_container_port("", 80, Some(20080))];
    let mut lab = Lab::of([policy.into(), pod.clone().into(), mk_there("b", "10.0.1.1").into()]);
    assert_eq!(shows(&lab), "10.0.0.1:80", "no node has a proxy address");
    assert_eq!(target_of(&lab), [0; 0]);
    lab.put(mk_node(HERE, &[], &["192.168.9.1"]));
    lab.put(mk_node(THERE, &[], &["192.168.9.2"]));
    assert_eq!(shows(&lab), "10.0.0.1:80 192.168.9.2:20080");
    assert_eq!(target_of(&lab), [80, 20080], "others come through the proxy");
    pod.ready = false;
    lab.put(pod);
    assert_eq!((shows(&lab).as_str(), target_of(&lab)), ("192.168.9.2:20080", vec![20080]));
}

fn target_of(lab: &Lab) -> Vec<u16> {
    let resolution = lab.engine.resolution(&balancing("b")).unwrap();
    resolution.proxy_targets.iter().map(|target| target.target_port).collect()
}

/// Case, `targetPort` of the policy, of the Service, the pod's container ports with their host
/// ports, and the port behind the proxy.
type TargetCase =
    (&'static str, Option<PortRef>, PortRef, Vec<(&'static str, u16, Option<u16>)>, Option<u16>);

fn target_cases() -> Vec<TargetCase> {
    let nine = || PortRef::Number(9);
    let web = || PortRef::Name("web".to_owned());
    vec![
        ("given number", Some(PortRef::Number(1)), nine(), vec![("http", 2, Some(20080))], Some(1)),
        ("given name", Some(web()), nine(), vec![("http", 2, None), ("web", 3, None)], Some(3)),
        ("given name that the pod lacks", Some(web()), nine(), vec![("http", 2, None)], None),
        ("container port of the same name", None, nine(), vec![("http", 2, None)], Some(2)),
        ("target port of the Service", None, nine(), vec![("x", 2, Some(20080))], Some(9)),
        ("named target of the Service", None, web(), vec![("web", 4, None)], Some(4)),
        ("named target that the pod lacks", None, web(), vec![("x", 5, Some(20080))], Some(5)),
        ("nothing known", None, web(), vec![], Some(20080)),
        ("other hostPort", None, web(), vec![("x", 5, Some(1))], Some(20080)),
    ]
}

#[test]
fn node_proxy_target_port_table() {
    for (case, target, of_service, ports, expected) in target_cases() {
        let mut service = mk_service("s", &["10.96.0.1"], &[("http", 80, Tcp)]);
        service.ports[0].target = of_service;
        let mut pods = web_pods(&[("http", 20080, Tcp)]);
        pods.ports[0].target = target;
        let policy = mk_balancing("b", at_service("s", &[]), pods, NodeProxy);
        let mut pod = mk_there("a", "10.0.0.1");
        pod.ports = ports.iter().map(|(name, port, host)| mk_container_port(name, *port, *host)).collect();
        let node = mk_node(THERE, &[], &["192.168.9.1"]);
        let lab = Lab::of([service.into(), policy.into(), pod.into(), node.into()]);
        assert_eq!(target_of(&lab), Vec::from_iter(expected), "{case}");
        let backend = if expected.is_none() { "-" } else { "192.168.9.1:20080" };
        assert_eq!(lab.shows(key("10.96.0.1", 80, Tcp)), backend, "{case}");
        assert_eq!(
            message(&lab).contains("targetPort of port 20080: default/a"),
            expected.is_none(),
            "{case}"
        );
    }
}

#[test]
fn changed_target_port_of_the_service_reaches_the_proxy() {
    let mut service = mk_service("s", &["10.96.0.1"], &[("http", 80, Tcp)]);
    let policy = mk_balancing("b", at_service("s", &[]), web_pods(&[("http", 20080, Tcp)]), NodeProxy);
    let mut lab = Lab::of([
        service.clone().into(),
        policy.into(),
        mk_there("a", "10.0.0.1").into(),
        mk_node(THERE, &[], &["192.168.9.1"]).into(),
    ]);
    assert_eq!(target_of(&lab), [80]);
    service.ports[0].target = PortRef::Number(8080);
    assert!(lab.put(service).entries.is_empty(), "the frontend itself does not change");
    assert_eq!(target_of(&lab), [8080]);
}

fn mk_weighted(addresses: &[(&str, u32)]) -> Policy {
    let weighted =
        addresses.iter().map(|(text, weight)| WeightedAddress { ip: ip(text), weight: *weight }).collect();
    mk_addresses("b", front(), &[], 8080).with(|spec| {
        spec.backend = BackendSpec::Addresses { addresses: weighted, ports: mk_ports(&[("", 8080, Tcp)]) };
    })
}

#[test]
fn addresses_have_weights_and_equal_ones_merge() {
    let lab =
        Lab::of([mk_weighted(&[("1.1.1.2", 5), ("1.1.1.1", 1), ("fd00::1", 9), ("1.1.1.2", 2)]).into()]);
    assert_eq!(shows(&lab), "1.1.1.1:8080 1.1.1.2:8080*7");
    assert_eq!(lab.verdict(&balancing("b")).backends, 2);
}

#[test]
fn weight_zero_drains_and_all_zero_keeps_the_list() {
    let mut lab = Lab::of([mk_weighted(&[("1.1.1.1", 0), ("1.1.1.2", 3)]).into()]);
    assert_eq!(shows(&lab), "1.1.1.1:8080*0 1.1.1.2:8080*3");
    lab.put(mk_weighted(&[("1.1.1.1", 0), ("1.1.1.2", 0)]));
    assert_eq!(shows(&lab), "1.1.1.1:8080*0 1.1.1.2:8080*0");
    assert!(lab.entry(key(FRONT, 80, Tcp)).layers[0].reject);
    assert_eq!(message(&lab), "1 frontend, 2 backends: connections are refused; every address has weight 0");
    assert!(!lab.verdict(&balancing("b")).redirects);
    lab.put(mk_weighted(&[("1.1.1.1", 0)]).with(|spec| spec.on_no_backend = Some(OnNoBackend::Fallback)));
    assert_eq!(
        message(&lab),
        "1 frontend, 1 backend: connections go where they were dialled; every address has weight 0"
    );
    assert!(!lab.verdict(&balancing("b")).redirects);
    lab.put(mk_weighted(&[("1.1.1.1", 0), ("1.1.1.2", 1)]));
    assert!(lab.verdict(&balancing("b")).redirects);
}

#[test]
fn no_backend_rejects_at_an_address_and_falls_back_at_a_service() {
    let mut lab = Lab::of([mk_service("s", &["10.96.0.1"], &[("", 80, Tcp)]).into()]);
    let at = key("10.96.0.1", 80, Tcp);
    let table = [
        (front(), None, key(FRONT, 80, Tcp), "reject"),
        (front(), Some(OnNoBackend::Fallback), key(FRONT, 80, Tcp), "-"),
        (front(), Some(OnNoBackend::Reject), key(FRONT, 80, Tcp), "reject"),
        (at_service("s", &[]), None, at, "-"),
        (at_service("s", &[]), Some(OnNoBackend::Fallback), at, "-"),
        (at_service("s", &[]), Some(OnNoBackend::Reject), at, "reject"),
    ];
    for (frontend, choice, key, expected) in table {
        let policy = mk_balancing("b", frontend, web_pods(&[("", 80, Tcp)]), PodEndpoint);
        lab.put(policy.with(|spec| spec.on_no_backend = choice));
        assert_eq!(lab.shows(key), expected, "{choice:?} {key}");
        assert!(message(&lab).contains("no pod matches"), "{}", message(&lab));
    }
    lab.put(mk_pod("a", &["10.0.0.1"]));
    assert_eq!(lab.shows(at), "10.0.0.1:80");
}

#[test]
fn a_namespace_without_such_pods_is_named() {
    let mut pods = web_pods(&[("", 80, Tcp)]);
    pods.namespace = Some("elsewhere".to_owned());
    let lab =
        Lab::of([mk_balancing("b", front(), pods, PodEndpoint).into(), mk_pod("a", &["10.0.0.1"]).into()]);
    assert!(message(&lab).contains("no pod in namespace elsewhere matches"), "{}", message(&lab));
}

#[test]
fn affinity_belongs_to_balancing_and_limits_to_local_redirect() {
    let mut settings = mk_settings();
    settings.qos_limit = limit(100);
    let mut lab = Lab::with_settings(settings);
    let redirect = mk_local("l", front(), web_pods(&[("", 80, Tcp)]));
    let both =
        |spec: &mut crate::objects::PolicySpec| (spec.affinity, spec.qos_limit) = (Some(10800), Some(5));
    lab.put(mk_pod("a", &["10.0.0.1"]));
    lab.put(redirect.with(both));
    lab.put(mk_weighted(&[("1.1.1.1", 1)]).with(both));
    let entry = lab.entry(key(FRONT, 80, Tcp));
    assert_eq!(
        (entry.layers[0].affinity, entry.layers[0].qos_limit, entry.layers[0].reject),
        (None, limit(5), false)
    );
    let second = &entry.layers[1];
    assert_eq!((second.affinity, second.qos_limit, second.reject), (limit(10800), None, true));
}

#[test]
fn many_names_are_counted_instead_of_listed() {
    let policy = mk_balancing("b", front(), web_pods(&[("", 20080, Tcp)]), HostPort);
    let mut lab = Lab::of([policy.into()]);
    let pods = (0..9).map(|n| mk_pod(&format!("p{n}"), &["10.0.0.1"]));
    lab.change(pods.map(|pod| (crate::objects::Object::Pod(pod.clone()).key(), Some(pod.into()))));
    assert!(message(&lab).ends_with("default/p4 and 4 more"), "{}", message(&lab));
    assert_eq!(lab.verdict(&balancing("b")).reason, Reason::Applied);
}

#[test]
fn a_policy_waits_for_the_port_that_the_controller_chooses() {
    let mut pods = web_pods(&[("http", 0, Tcp)]);
    pods.ports[0].automatic = true;
    let policy = mk_balancing("b", front(), pods, NodeProxy);
    let node = mk_node(THERE, &["192.168.0.1"], &["10.211.0.1"]);
    let mut pod = mk_there("a", "10.0.0.1");
    let mut lab = Lab::of([policy.clone().into(), node.into(), pod.clone().into()]);
    assert_eq!(lab.verdict(&balancing("b")).reason, Reason::Pending);
    assert!(lab.verdict(&balancing("b")).message.contains("proxyPorts of a TunnelFabric"));
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "-");
    let mut given = policy;
    let BackendSpec::Pods { pods, .. } = &mut given.spec.as_mut().unwrap().backend else { panic!() };
    pods.ports[0].port.port = 20_000;
    lab.put(given);
    let verdict = lab.verdict(&balancing("b"));
    assert!(verdict.message.contains("no container port for the targetPort"), "{}", verdict.message);
    // The number says nothing about the pod: only names do.
    pod.ports = vec![mk_container_port("web", 8080, Some(20_000)), mk_container_port("http", 8081, None)];
    lab.put(pod);
    assert_eq!(lab.shows(key(FRONT, 80, Tcp)), "10.211.0.1:20000");
    assert_eq!(target_of(&lab), [8081]);
}
