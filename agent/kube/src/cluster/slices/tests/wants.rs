//! Which endpoints are listed, with which ports.

use super::*;
use balancing_core::resolve::fixtures::{at_service, ips, mk_addresses, mk_service};

fn mk_engine() -> Engine {
    Engine::new(Settings {
        role: Role::Cluster,
        node_name: String::new(),
        cluster_pods: ClusterPods::Selected,
        ..mk_settings()
    })
}

fn ports_of(wanted: &Wanted) -> Vec<(Vec<u16>, Vec<&str>)> {
    let ports = |group: &Group| group.ports.iter().map(|port| port.port).collect();
    wanted.groups.iter().map(|(g, e)| (ports(g), e.keys().map(|pod| pod.name.as_str()).collect())).collect()
}

#[test]
fn endpoints_tell_what_is_known_of_a_pod() {
    let mut engine = mk_engine();
    let front = at_address("169.254.0.90", &[("", 80, Tcp)]);
    put(&mut engine, mk_balancing("b", front, web_pods(&[("", 8080, Tcp)]), RedirectMode::PodEndpoint));
    let mut node = mk_node("node-a", &["192.168.0.1"], &[]);
    node.labels = labels(&[("topology.kubernetes.io/zone", "z1")]);
    put(&mut engine, node.clone());
    put(&mut engine, mk_pod("a", &["10.0.0.1", "fd00::1"]));
    let mut leaving = mk_pod("leaving", &["10.0.0.2"]);
    leaving.terminating = true;
    put(&mut engine, leaving);
    let mut finished = mk_pod("finished", &["10.0.0.3"]);
    finished.finished = true;
    put(&mut engine, finished);
    put(&mut engine, mk_pod("pending", &[]));
    put(&mut engine, mk_pod("odd", &["169.254.1.1", "fe80::1"]));
    let wanted = wanted(&engine, &balancing("b")).unwrap();
    let listed = &wanted.groups[&mk_group(Family::V4, 8080)];
    assert_eq!(listed.len(), 2);
    let first = listed.iter().find(|(pod, _)| pod.name == "a").unwrap().1;
    let expected = Endpoint {
        uid: "uid-a".to_owned(),
        ip: ip("10.0.0.1"),
        node: "node-a".to_owned(),
        zone: "z1".to_owned(),
        ready: true,
        serving: true,
        terminating: false,
    };
    assert_eq!(*first, expected);
    let leaving = listed.iter().find(|(pod, _)| pod.name == "leaving").unwrap().1;
    assert_eq!((leaving.ready, leaving.serving, leaving.terminating), (false, true, true));
    assert_eq!(wanted.groups[&mk_group(Family::V6, 8080)].len(), 1);
    // Another zone is news for the policies of the pods there, other labels are none.
    node.labels = labels(&[("topology.kubernetes.io/zone", "z2"), ("x", "y")]);
    assert_eq!(put(&mut engine, node.clone()), BTreeSet::from([balancing("b")]));
    node.labels = labels(&[("topology.kubernetes.io/zone", "z2")]);
    assert!(put(&mut engine, node).is_empty());
}

#[test]
fn ports_are_those_the_pod_has() {
    let mut engine = mk_engine();
    let front = || at_address("169.254.0.90", &[("a", 80, Tcp), ("b", 81, Tcp)]);
    let ports = || web_pods(&[("a", 20080, Tcp), ("b", 20081, Tcp)]);
    let mut both = mk_pod("both", &["10.0.0.1"]);
    both.ports = vec![mk_container_port("a", 80, Some(20080)), mk_container_port("b", 81, Some(20081))];
    let mut one = mk_pod("one", &["10.0.0.2"]);
    one.ports = vec![mk_container_port("a", 90, Some(20080))];
    let mut host = mk_pod("host", &["192.168.0.1"]);
    host.host_network = true;
    let elsewhere = Pod { node: "node-x".to_owned(), ..both.clone() };
    let elsewhere = Pod { name: "elsewhere".to_owned(), ..elsewhere };
    for pod in [both, one, host, elsewhere, mk_pod("none", &["10.0.0.3"])] {
        put(&mut engine, pod);
    }
    put(&mut engine, mk_node("node-a", &["192.168.0.1"], &["10.255.0.1"]));
    let mut shown = |mode| {
        let mut named = ports();
        if mode == RedirectMode::NodeProxy {
            named.ports[1].target = Some(PortRef::Name("b".to_owned()));
        }
        put(&mut engine, mk_balancing("b", front(), named, mode));
        let wanted = wanted(&engine, &balancing("b")).unwrap();
        let ips: BTreeSet<_> = wanted.groups.values().flatten().map(|(_, e)| e.ip.to_string()).collect();
        let shown = ports_of(&wanted);
        let shown = shown.iter().map(|(ports, pods)| format!("{ports:?}: {}", pods.join(" ")));
        (shown.collect::<Vec<_>>().join(", "), ips.into_iter().collect::<Vec<_>>().join(" "))
    };
    let pairs = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let own = "10.0.0.1 10.0.0.2 10.0.0.3 192.168.0.1";
    assert_eq!(shown(RedirectMode::PodEndpoint), pairs("[20080, 20081]: both elsewhere host none one", own));
    // Nothing is known of the node of one pod.
    let through = pairs("[20080]: one, [20080, 20081]: both host", "192.168.0.1");
    assert_eq!(shown(RedirectMode::HostPort), through);
    let proxied = pairs("[20080]: host none one, [20080, 20081]: both", "10.255.0.1");
    assert_eq!(shown(RedirectMode::NodeProxy), proxied);
    // The node's addresses are news for the policies of its pods.
    let moved = mk_node("node-a", &["192.168.0.1"], &["10.255.0.9"]);
    assert_eq!(put(&mut engine, moved), BTreeSet::from([balancing("b")]));
}

#[test]
fn only_active_policies_over_pods_have_slices() {
    let mut engine = mk_engine();
    let front = || at_address("169.254.0.90", &[("", 80, Tcp)]);
    let policy = || mk_balancing("b", front(), web_pods(&[("", 8080, Tcp)]), RedirectMode::PodEndpoint);
    put(&mut engine, mk_pod("a", &["10.0.0.1"]));
    put(&mut engine, mk_node("node-a", &[], &[]));
    put(&mut engine, policy());
    assert!(wanted(&engine, &balancing("b")).is_some());
    put(&mut engine, policy().with(|spec| spec.enabled = false));
    assert_eq!(wanted(&engine, &balancing("b")), None, "disabled");
    put(
        &mut engine,
        policy().with(|spec| {
            spec.out_cluster = false;
            spec.node_selector = balancing_core::resolve::fixtures::selector(&[("no", "node")]);
        }),
    );
    assert_eq!(wanted(&engine, &balancing("b")), None, "for no host");
    put(&mut engine, mk_addresses("b", front(), &["10.9.9.9"], 80));
    assert_eq!(wanted(&engine, &balancing("b")), None, "no pods");
    assert_eq!(wanted(&engine, &balancing("gone")), None);
}

#[test]
fn a_policy_that_asks_for_external_addresses_has_a_head_that_lists_the_approved_ones() {
    let mut engine = mk_engine();
    let addresses = |service| mk_addresses("b", at_service(service, &[]), &["10.9.9.9"], 80);
    let mut service = mk_service("s", &["10.96.0.1"], &[("", 80, Tcp)]);
    put(&mut engine, service.clone());
    put(&mut engine, addresses("s"));
    assert_eq!(wanted(&engine, &balancing("b")), None, "it asks for none");
    service.external_ips = ips(&["203.0.113.7", "203.0.113.8", "192.168.0.9"]);
    put(&mut engine, service);
    put(&mut engine, mk_node("node-z", &["192.168.0.9"], &[]));
    let first = wanted(&engine, &balancing("b")).unwrap();
    let list = |ips: &[&str]| Some(ips.iter().map(|text| ip(text)).collect::<BTreeSet<IpAddr>>());
    assert_eq!((&first.approved, first.groups.len()), (&list(&["203.0.113.7", "203.0.113.8"]), 0));
    let mut server = Server::default();
    assert_eq!(server.settle(Some(&first)).len(), 1);
    assert_eq!(server.settle(Some(&first)), [], "written only on change");
    // A node joins with an address that was approved.
    assert_eq!(put(&mut engine, mk_node("node-y", &["203.0.113.8"], &[])), BTreeSet::from([balancing("b")]));
    let second = wanted(&engine, &balancing("b")).unwrap();
    let ops = server.settle(Some(&second));
    let [SliceOp::Update(head)] = ops.as_slice() else { panic!("{ops:?}") };
    assert_eq!((&head.approved, head.set_size), (&list(&["203.0.113.7"]), Some(1)));
}

/// Somebody edits the annotation: the slice is inexact and written again.
#[test]
fn an_edited_approval_is_undone() {
    let mut wanted = mk_wanted(0..3);
    wanted.approved = Some(BTreeSet::from([ip("203.0.113.7")]));
    let mut server = Server::default();
    server.settle(Some(&wanted));
    for text in ["203.0.113.7,10.96.0.10", "nonsense", ""] {
        let known = server.slices.values_mut().next().unwrap();
        let mut object = wire::to_api(&known.slice, "balancing", None);
        let annotations = object.metadata.annotations.as_mut().unwrap();
        annotations.insert("balancing.elf.io/external-addresses".to_owned(), text.to_owned());
        *known = wire::from_api(&object);
        assert_eq!(server.settle(Some(&wanted)).len(), 1, "{text}");
    }
}
