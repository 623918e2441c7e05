//! Members reach each other through the tunnel, over every mix of families, while members come, go and move.

use std::time::Duration;

use balancing_tests::{
    require_kernel,
    tunnel::{Dialled, Host, Members},
    wait_until,
};

#[test]
fn all_pairs_reach_each_other_over_an_ipv4_underlay() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4; 3]);
    members.apply();
    members.prove_all_pairs();
    assert!(members.hosts[0].show("ip -brief link").contains("balancing0"));
}

#[test]
fn all_pairs_reach_each_other_over_an_ipv6_underlay() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv6; 3]);
    members.apply();
    members.prove_all_pairs();
    assert!(!members.hosts[0].show("ip -brief link").contains("balancing0"));
}

#[test]
fn members_of_both_families_join_those_of_one() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Both, Dialled::Ipv4, Dialled::Both]);
    members.apply();
    members.prove_all_pairs();
    // The one that has both dials each peer over the family that this has.
    let members = Members::new(&[Dialled::Both, Dialled::Ipv4]);
    members.apply();
    members.prove_all_pairs();
    let members = Members::new(&[Dialled::Both, Dialled::Both, Dialled::Ipv6]);
    members.apply();
    members.prove_all_pairs();
    let links = members.hosts[0].show("ip -brief link");
    assert!(links.contains("balancing0") && links.contains("balancing1"), "{links}");
}

#[test]
fn a_second_run_writes_nothing() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Both, Dialled::Both, Dialled::Ipv6]);
    members.apply();
    let all = members.all();
    let applied = members.hosts[0].apply(&all);
    assert_eq!((applied.writes, applied.made), (0, false), "{applied:?}");
    assert!(applied.device.is_some());
    // Nor does one that knows nothing of the first: the kernel has it all.
    let host = members.hosts.into_iter().next().unwrap();
    let again = Host::new(host.namespace, host.own.clone());
    assert_eq!(again.apply(&all).writes, 0);
}

#[test]
fn a_member_that_left_is_forgotten_and_the_others_stay() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4; 3]);
    members.apply();
    let [first, second, third] = &members.hosts[..] else { panic!("three members") };
    let applied = first.apply(std::slice::from_ref(&second.own));
    assert_eq!(applied.writes, 3, "two neighbours and one forwarding entry are deleted: {applied:?}");
    let left = first.show("bridge fdb show dev balancing0") + &first.show("ip neigh show dev balancing0");
    assert!(!left.contains(&third.own.mac.to_string()), "{left}");
    assert!(first.pings(members.inside(2)[0]));
    assert!(
        !first.pings_with(members.inside(3)[0], &["-c", "1", "-W", "1"]),
        "nobody is asked where it went"
    );
}

#[test]
fn a_new_underlay_address_takes_effect_live() {
    if !require_kernel() {
        return;
    }
    let mut members = Members::new(&[Dialled::Ipv4; 2]);
    members.apply();
    let index = |members: &Members| members.hosts[0].show("ip -o link show balancing0");
    let before = index(&members);
    let host = &mut members.hosts[0];
    host.namespace.add_address("192.0.2.101/24", "eth0");
    host.own.underlay.v4 = "192.0.2.101".parse().ok();
    host.namespace.ip(&["address", "delete", "192.0.2.1/24", "dev", "eth0"]);
    // The first address went and the kernel may have taken the second of the same network with it.
    if !host.show("ip address show dev eth0").contains("192.0.2.101") {
        host.namespace.add_address("192.0.2.101/24", "eth0");
    }
    members.apply();
    assert_eq!(index(&members), before, "the device is the same");
    members.prove_all_pairs();
    assert!(
        members.hosts[1].show("bridge fdb show dev balancing0").contains("dst 192.0.2.101 self permanent")
    );
}

#[test]
fn a_peer_moves_from_one_device_to_the_other() {
    if !require_kernel() {
        return;
    }
    let mut members = Members::new(&[Dialled::Both, Dialled::Both]);
    members.apply();
    let ipv4 = members.hosts[1].own.underlay.v4.take();
    members.apply();
    members.prove_all_pairs();
    assert!(members.hosts[0].show("ip -brief link").contains("balancing1"));
    members.hosts[1].own.underlay.v4 = ipv4;
    members.apply();
    members.prove_all_pairs();
    let links = members.hosts[0].show("ip -brief link");
    assert!(links.contains("balancing0") && !links.contains("balancing1"), "{links}");
}

#[test]
fn a_smaller_peer_gets_no_larger_packets() {
    if !require_kernel() {
        return;
    }
    let mut members = Members::new(&[Dialled::Ipv4; 2]);
    for host in &members.hosts {
        host.namespace.ip(&["link", "set", "eth0", "mtu", "9000"]);
    }
    for port in ["p1", "p2", "br0"] {
        members.switch.ip(&["link", "set", port, "mtu", "9000"]);
    }
    members.hosts[1].namespace.ip(&["link", "set", "eth0", "mtu", "1500"]);
    members.hosts[1].own.mtu = 1450;
    members.hosts[0].own.mtu = 8950;
    members.apply();
    members.prove_all_pairs();
    let [large, small] = &members.hosts[..] else { panic!("two members") };
    assert!(large.show("ip route get 10.211.0.2").contains("balancing0"));
    assert!(large.show("ip route show 10.211.0.2").contains("mtu 1450"));
    assert!(!small.show("ip route").contains("mtu"), "only towards smaller peers");
}

#[test]
fn whoever_listens_is_told_of_changes() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4]);
    members.apply();
    let host = &members.hosts[0];
    for change in
        ["link set balancing0 down", "link set balancing0 up", "link set eth0 down", "link set lo mtu 9000"]
    {
        let before = host.changes();
        host.namespace.ip(&change.split(' ').collect::<Vec<_>>());
        wait_until(Duration::from_secs(30), || host.changes() > before);
    }
}
