use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::{
    AcceptFrom, Mac, Pair,
    facts::{Address, Link, Route, Scope, Vxlan},
};

fn fabric() -> Fabric {
    Fabric {
        name: "default".into(),
        vni: 7710,
        port: 7710,
        ipv4_pool: Some("10.211.0.0/16".parse().unwrap()),
        ipv6_pool: Some("fd11::/112".parse().unwrap()),
        mtu: None,
        accept_from: AcceptFrom::Members,
    }
}

/// Member number n with the underlay families that it is said to have.
fn member(n: u8, ipv4: bool, ipv6: bool) -> Member {
    let v6 = |net: &str| format!("{net}::{n:x}").parse::<Ipv6Addr>().unwrap();
    Member {
        name: format!("node.n{n}"),
        underlay: Pair { v4: ipv4.then_some(Ipv4Addr::new(192, 0, 2, n)), v6: ipv6.then(|| v6("2001:db8")) },
        port: 7710,
        mac: Mac([0x66, 0, 0, 0, 0, n]),
        addresses: Pair { v4: Some(Ipv4Addr::new(10, 211, 0, n)), v6: Some(v6("fd11")) },
        mtu: 0,
    }
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link { index, name: name.into(), mtu, up: true, ..Link::default() }
}

fn address(link: u32, ip: &str, prefix: u8) -> Address {
    Address { link, ip: ip.parse().unwrap(), prefix, scope: Scope::Global, lasting: true }
}

fn route(destination: &str, device: Option<u32>) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        kind: RouteKind::Unicast,
        gateway: None,
        device,
        source: None,
        mtu: None,
        metric: 0,
        protocol: 3,
        main: true,
    }
}

/// A host with an underlay of both families and a default route.
fn host() -> Facts {
    Facts {
        links: vec![Link { loopback: true, ..link(1, "lo", 65536) }, link(2, "eth0", 1500)],
        addresses: vec![
            address(1, "127.0.0.1", 8),
            address(2, "192.0.2.1", 24),
            address(2, "2001:db8::1", 64),
        ],
        routes: vec![route("0.0.0.0/0", Some(2)), route("192.0.2.0/24", Some(2))],
        ..Facts::default()
    }
}

/// The host with a further VXLAN device.
fn host_with(name: &str, alias: Option<&str>, vxlan: Vxlan) -> Facts {
    let mut facts = host();
    let device = Link {
        alias: alias.map(Into::into),
        vxlan: Some(vxlan),
        kind: Some("vxlan".into()),
        ..link(9, name, 1450)
    };
    facts.links.push(device);
    facts
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

#[test]
fn one_device_carries_both_inner_families_by_two_entries_and_one_route_a_pool() {
    let own = member(1, true, true);
    let plan = plan(&fabric(), &own, &[member(2, true, true), own.clone(), member(3, true, false)], &host())
        .unwrap();
    let [device] = &plan.devices[..] else { panic!("{plan:?}") };
    assert_eq!((device.name, device.alias.as_str()), ("balancing0", "balancing:default"));
    assert_eq!((device.local, device.mtu, device.mac), (ip("192.0.2.1"), 1450, own.mac));
    assert_eq!(device.addresses, [ip("10.211.0.1"), ip("fd11::1")].into());
    let path = |source| Path { source: ip(source), mtu: None };
    let routes = [(net("10.211.0.0/16"), path("10.211.0.1")), (net("fd11::/112"), path("fd11::1"))];
    assert_eq!(device.routes, routes.into());
    assert_eq!(device.neighbours.len(), 4);
    assert_eq!(device.neighbours[&ip("fd11::3")], member(3, true, false).mac);
    let forwarding = [2, 3].map(|n| {
        (member(n, true, true).mac, Destination { ip: Ipv4Addr::new(192, 0, 2, n).into(), port: None })
    });
    assert_eq!(device.forwarding, forwarding.into());
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
}

#[test]
fn a_pair_meets_over_the_family_both_have() {
    let own = member(1, true, true);
    let plan = plan(&fabric(), &own, &[member(2, true, false), member(3, false, true)], &host()).unwrap();
    let [ipv4, ipv6] = &plan.devices[..] else { panic!("{plan:?}") };
    assert_eq!((ipv4.name, ipv6.name), ("balancing0", "balancing1"));
    assert_eq!((ipv6.local, ipv6.mtu), (ip("2001:db8::1"), 1430));
    assert_eq!(plan.mtu(), 1430);
    assert!(ipv6.addresses.is_empty() && ipv6.mac == ipv4.mac);
    let path = |source| Path { source: ip(source), mtu: None };
    let routes = [(net("10.211.0.3/32"), path("10.211.0.1")), (net("fd11::3/128"), path("fd11::1"))];
    assert_eq!(ipv6.routes, routes.into());
    assert_eq!((ipv4.forwarding.len(), ipv6.forwarding.len()), (1, 1));
    assert_eq!((ipv4.neighbours.len(), ipv6.neighbours.len()), (2, 2));

    let only6 = super::plan(&fabric(), &member(1, false, true), &[member(2, true, true)], &host()).unwrap();
    let [device] = &only6.devices[..] else { panic!("{only6:?}") };
    assert_eq!((device.name, device.addresses.len()), ("balancing1", 2));
    assert_eq!(device.forwarding[&member(2, true, true).mac].ip, ip("2001:db8::2"));
}

#[test]
fn what_cannot_be_programmed_is_told_and_left_out() {
    let own = member(1, true, false);
    let nowhere = Member { addresses: Pair::default(), ..member(2, true, false) };
    let twin = Member { name: "node.zz".into(), ..member(3, true, false) };
    let me = Member { addresses: own.addresses, ..member(5, true, false) };
    let peers = [twin, nowhere, member(3, true, false), member(4, false, true), me];
    let plan = plan(&fabric(), &own, &peers, &host()).unwrap();
    assert_eq!(plan.devices[0].forwarding.len(), 1, "the first by name wins");
    let told = plan.problems.join("\n");
    for part in
        ["node.n2: it has no tunnel address", "node.n4: no underlay", "node.n5: another", "node.zz: another"]
    {
        assert!(told.contains(part), "{part} in {told}");
    }
    let many: Vec<Member> =
        (0..100).map(|n| Member { name: format!("x{n}"), ..member(7, false, true) }).collect();
    let plan = super::plan(&fabric(), &own, &many, &host()).unwrap();
    assert_eq!(plan.problems.last().unwrap(), "and 92 more problems");
}

#[test]
fn smaller_peers_get_a_route_with_their_mtu_and_others_none() {
    let own = member(1, true, false);
    let small = Member { mtu: 1400, ..member(2, true, false) };
    let large = Member { mtu: 8950, port: 9999, ..member(3, true, false) };
    let plan = plan(&fabric(), &own, &[small, large], &host()).unwrap();
    let device = &plan.devices[0];
    assert_eq!(device.routes.len(), 4);
    let path = Path { source: ip("10.211.0.1"), mtu: Some(1400) };
    assert_eq!(device.routes[&net("10.211.0.2/32")], path);
    assert_eq!(device.forwarding[&member(3, true, false).mac].port, Some(9999));
}

#[test]
fn the_mtu_follows_the_link_that_packets_leave_by() {
    let own = member(1, true, false);
    let mtu = |facts: &Facts, wanted| {
        let plan = plan(&Fabric { mtu: wanted, ..fabric() }, &own, &[], facts).unwrap();
        (plan.devices[0].mtu, plan.problems.join("\n"))
    };
    let mut facts = host();
    facts.links[1].mtu = 9000;
    assert_eq!(mtu(&facts, None), (8950, String::new()));
    facts.addresses[1].link = 1;
    assert_eq!(mtu(&facts, None).0, 8950, "an address of the loopback device leaves by the default route");
    facts.routes.clear();
    assert_eq!(mtu(&facts, None).0, 1450);
    assert_eq!(mtu(&host(), Some(1400)), (1400, String::new()));
    let (large, told) = mtu(&host(), Some(1500));
    assert!(large == 1500 && told.contains("leaves 1450"), "{told}");
    let (small, told) = mtu(&host(), Some(1200));
    assert!(small == 1200 && told.contains("no IPv6"), "{told}");
}

#[test]
fn what_is_in_the_way_is_named() {
    let own = member(1, true, false);
    let conflict = |facts: &Facts| plan(&fabric(), &own, &[], facts).unwrap_err().to_string();
    let same = Vxlan { vni: 7710, port: 7710, ..Vxlan::default() };
    let told = conflict(&host_with("flannel.1", None, same.clone()));
    assert!(told.contains("flannel.1 has VNI 7710 on port 7710"), "{told}");
    let told =
        conflict(&host_with("cilium_vxlan", None, Vxlan { collect_metadata: true, vni: 0, ..same.clone() }));
    assert!(told.contains("cilium_vxlan takes every VNI"), "{told}");
    let told =
        conflict(&host_with("gbp0", None, Vxlan { vni: 1, flags: vec!["gbp".into()], ..same.clone() }));
    assert!(told.contains("gbp0 uses port 7710 with gbp"), "{told}");
    let told = conflict(&host_with("balancing0", Some("hers"), Vxlan { vni: 1, port: 1, ..same.clone() }));
    assert!(told.contains("balancing0 is not ours"), "{told}");

    for free in
        [Vxlan { vni: 1, ..same.clone() }, Vxlan { port: 8472, collect_metadata: true, ..same.clone() }]
    {
        plan(&fabric(), &own, &[], &host_with("other", None, free)).unwrap();
    }
    plan(&fabric(), &own, &[], &host_with("balancing0", Some("balancing:default"), same.clone())).unwrap();
    // Made and not marked before we were killed.
    let mut facts = host_with("balancing0", None, same);
    facts.links[2].up = false;
    facts.links[2].mac = Some(own.mac);
    plan(&fabric(), &own, &[], &facts).unwrap();
}

#[test]
fn a_pool_must_be_free_on_this_host() {
    let own = member(1, true, false);
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut facts = host();
        change(&mut facts);
        plan(&fabric(), &own, &[], &facts).map_err(|conflict| conflict.to_string())
    };
    let told = with(&|facts| facts.addresses.push(address(2, "10.211.9.1", 24))).unwrap_err();
    assert!(told.contains("pool 10.211.0.0/16 overlaps address 10.211.9.1/24 of eth0"), "{told}");
    let told = with(&|facts| facts.routes.push(route("10.0.0.0/8", Some(2)))).unwrap_err();
    assert!(told.contains("overlaps route 10.0.0.0/8 over eth0"), "{told}");
    let told = with(&|facts| facts.routes.push(route("fd11::/120", None))).unwrap_err();
    assert!(told.contains("pool fd11::/112 overlaps route fd11::/120"), "{told}");

    with(&|facts| facts.routes.extend([route("0.0.0.0/1", Some(2)), route("128.0.0.0/1", Some(2))])).unwrap();
    with(&|facts| facts.routes.push(Route { kind: RouteKind::Other, ..route("10.0.0.0/8", None) })).unwrap();
    with(&|facts| {
        let vxlan = Vxlan { vni: 7710, port: 7710, ..Vxlan::default() };
        *facts = host_with("balancing0", Some("balancing:default"), vxlan);
        facts.routes.push(route("10.211.0.0/16", Some(9)));
        facts.addresses.push(address(9, "10.211.0.1", 32));
    })
    .unwrap();
}

#[test]
fn a_fabric_that_cannot_work_is_refused() {
    let own = member(1, true, false);
    let refusal = |fabric: Fabric, own: &Member| plan(&fabric, own, &[], &host()).unwrap_err();
    for port in [4789, 8472, 0] {
        assert_eq!(refusal(Fabric { port, ..fabric() }, &own), Conflict::ForbiddenPort(port));
    }
    assert_eq!(refusal(Fabric { vni: 1 << 24, ..fabric() }, &own), Conflict::BadVni(1 << 24));
    let nowhere = Member { underlay: Pair::default(), ..own.clone() };
    assert_eq!(refusal(fabric(), &nowhere), Conflict::NoUnderlay("node.n1".into()));
    let unclaimed = Member { addresses: Pair::default(), ..own };
    assert_eq!(refusal(fabric(), &unclaimed), Conflict::NoAddress("node.n1".into()));
}

#[test]
fn forwarding_that_is_off_is_told_and_not_changed() {
    let facts = Facts { forwards_ipv4: Some(false), forwards_ipv6: Some(true), ..host() };
    let plan = plan(&fabric(), &member(1, true, false), &[], &facts).unwrap();
    assert_eq!(plan.problems.len(), 1);
    assert!(plan.problems[0].contains("net.ipv4.ip_forward is 0"), "{:?}", plan.problems);
    assert!(plan.devices[0].sysctls.iter().all(|sysctl| sysctl.path.contains("/balancing0/")));
}
