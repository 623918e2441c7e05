//! What others do to the device is undone by the next run, and what belongs to others stays.

use std::time::Duration;

use balancing_tests::{
    require_kernel,
    tunnel::{Dialled, Host, Members, fabric, member},
    wait_for, when_free,
};
use balancing_tunnel::{Conflict, Deletions};

/// One command, or several with ` && ` between them.
fn run(host: &Host, commands: &str) {
    for command in commands.split(" && ") {
        _ = host.show(command);
    }
}

#[test]
fn whatever_happens_to_the_device_is_repaired() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Both, Dialled::Both]);
    members.apply();
    let host = &members.hosts[0];
    for damage in [
        "ip link delete balancing0",
        "ip link set balancing0 down",
        "ip link set balancing0 address 02:00:00:00:00:01",
        "ip link set balancing0 mtu 1000",
        "ip link set balancing0 alias other",
        "ip link set balancing0 alias balancing:other",
        // Before Linux 6.2 a device that is up keeps its name.
        "ip link set balancing0 down && ip link set balancing0 name mine0",
        "ip neigh flush dev balancing0 nud permanent",
        "ip route flush dev balancing0",
        "ip -6 route flush dev balancing0 proto 111",
        "ip address flush dev balancing0",
        "ip link set balancing0 type vxlan local 192.0.2.77",
        "ip link set balancing0 type vxlan learning",
        "busybox sysctl -q -w net.ipv6.conf.balancing0.disable_ipv6=1",
        "busybox sysctl -q -w net.ipv4.conf.balancing0.rp_filter=1",
        "bridge fdb append 00:00:00:00:00:00 dev balancing0 dst 192.0.2.99 self permanent",
        "ip neigh replace 10.211.0.200 lladdr 66:00:00:00:00:09 dev balancing0 nud permanent",
    ] {
        if damage.ends_with("alias other") {
            // It is nobody's then: told, and left alone.
            run(host, damage);
            let conflict = host.plan(&fabric(), &members.all()).unwrap_err();
            assert!(matches!(conflict, Conflict::ForeignDevice(_) | Conflict::VniTaken { .. }), "{conflict}");
            run(host, "ip link set balancing0 alias balancing:default");
        } else {
            run(host, damage);
        }
        let repaired = host.apply(&members.all());
        assert!(repaired.writes > 0 || damage.contains("alias"), "{damage}: {repaired:?}");
        assert_eq!(host.apply(&members.all()).writes, 0, "{damage}");
        for address in members.inside(2) {
            eprintln!("{damage}: waiting for {address}");
            host.wait_for(address);
        }
    }
    let entries = host.show("bridge fdb show dev balancing0");
    assert!(!entries.contains("00:00:00:00:00:00"), "a flooding entry stays out: {entries}");
}

#[test]
fn a_device_is_there_before_anything_comes_through_it() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Both, Dialled::Both]);
    let host = &members.hosts[0];
    let plan = host.plan(&fabric(), &members.all()).unwrap();
    let is_up = || host.show("ip -o link show dev balancing0").contains(",UP");
    let down = host.netlink.shape(&plan, Deletions::Allowed).unwrap();
    assert!(!is_up() && down.len() == plan.devices.len(), "{down:?}");
    assert_eq!(host.netlink.shape(&plan, Deletions::Allowed).unwrap(), down);
    let applied = host.netlink.apply(&plan, Deletions::Allowed).unwrap();
    assert!(is_up() && applied.devices == down, "{applied:?}");
    assert!(host.netlink.shape(&plan, Deletions::Allowed).unwrap().is_empty());
}

#[test]
fn a_flushed_forwarding_table_is_filled_again() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4; 3]);
    members.apply();
    let host = &members.hosts[0];
    for peer in &members.all()[1..] {
        run(host, &format!("bridge fdb delete {} dev balancing0 self", peer.mac));
    }
    assert_eq!(host.apply(&members.all()).writes, 2);
    members.prove_all_pairs();
}

#[test]
fn the_parent_goes_down_changes_its_mtu_and_is_made_anew() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4; 2]);
    members.apply();
    let host = &members.hosts[0];
    let answers = |what: &str| assert!(host.pings(members.inside(2)[0]), "{what}");
    host.namespace.ip(&["link", "set", "eth0", "down"]);
    _ = host.apply(&members.all());
    host.namespace.ip(&["link", "set", "eth0", "up"]);
    _ = host.apply(&members.all());
    answers("down and up");

    host.namespace.ip(&["link", "set", "eth0", "mtu", "1400"]);
    assert_eq!(host.apply(&members.all()).writes, 1);
    assert!(host.show("ip link show balancing0").contains("mtu 1350"));
    answers("MTU");

    host.namespace.ip(&["link", "delete", "eth0"]);
    assert!(!host.apply(&members.all()).made, "the device survives its parent");
    host.namespace.join("eth0", &members.switch, "p1");
    members.switch.ip(&["link", "set", "p1", "master", "br0"]);
    host.namespace.add_address("192.0.2.1/24", "eth0");
    assert!(!host.apply(&members.all()).made);
    answers("made anew");
}

#[test]
fn what_belongs_to_others_stays() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4; 2]);
    members.apply();
    let host = &members.hosts[0];
    let foreign = [
        (
            "bridge fdb add 02:00:00:00:00:05 dev balancing0 dst 192.0.2.5 self dynamic",
            "bridge fdb",
            "02:00:00:00:00:05",
        ),
        (
            "ip neigh add 10.211.0.5 lladdr 02:00:00:00:00:06 dev balancing0 nud stale",
            "ip neigh",
            "02:00:00:00:00:06",
        ),
        (
            "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev eth0 nud permanent",
            "ip neigh",
            "02:00:00:00:00:07",
        ),
        ("ip route add 198.51.100.0/24 dev balancing0", "ip route", "198.51.100.0/24"),
        ("ip address add 203.0.113.1/24 dev balancing0", "ip address", "203.0.113.1/24"),
        ("ip route add 198.18.0.0/24 dev eth0 proto 111", "ip route", "198.18.0.0/24"),
    ];
    for (command, _, _) in foreign {
        run(host, command);
    }
    assert_eq!(host.apply(&members.all()).writes, 0);
    assert!(host.apply(&[]).writes > 0);
    for (_, list, text) in foreign {
        let listed = host.show(list);
        assert!(listed.contains(text), "{text} in {listed}");
    }
}

#[test]
fn nothing_is_deleted_while_deletions_are_held() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Both, Dialled::Ipv6]);
    members.apply();
    let host = &members.hosts[0];
    let plan = host.plan(&fabric(), &[]).unwrap();
    assert_eq!(host.netlink.apply(&plan, Deletions::Held).unwrap().writes, 0);
    assert!(host.pings(members.inside(2)[0]));
    assert!(host.netlink.apply(&plan, Deletions::Allowed).unwrap().writes > 0);
    assert!(!host.show("ip -brief link").contains("balancing1"), "the second device goes with its last peer");
}

#[test]
fn a_fabric_of_other_settings_replaces_the_device() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4]);
    members.apply();
    let host = &members.hosts[0];
    let other = balancing_tunnel::Fabric { name: "other".into(), vni: 7800, port: 7800, ..fabric() };
    let plan = host.plan(&other, &[]).unwrap();
    let held = host.netlink.apply(&plan, Deletions::Held).unwrap();
    assert_eq!((held.writes, held.device), (0, None), "{held:?}");
    assert!(host.netlink.apply(&plan, Deletions::Allowed).unwrap().made);
    let shown = host.show("ip -d link show balancing0");
    assert!(shown.contains("vxlan id 7800") && shown.contains("dstport 7800"), "{shown}");
    assert_eq!(host.netlink.remove().unwrap(), 1);
    assert_eq!(host.netlink.remove().unwrap(), 0);
}

#[test]
fn who_is_in_the_way_is_told_and_keeps_working() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4]);
    let host = &members.hosts[0];
    for (foreign, words) in [
        (
            "ip link add flannel.1 type vxlan id 7710 dstport 7710 local 192.0.2.1 nolearning",
            "flannel.1 has VNI 7710",
        ),
        ("ip link add cilium_vxlan type vxlan external dstport 7710", "cilium_vxlan takes every VNI"),
        ("ip link add gbp0 type vxlan id 5 dstport 7710 gbp", "gbp0 uses port 7710 with gbp"),
        ("ip link add balancing0 type bridge", "balancing0 is not ours"),
        ("ip link add balancing0 type vxlan id 9 dstport 9", "balancing0 is not ours"),
    ] {
        run(host, foreign);
        let name = foreign.split(' ').nth(3).unwrap();
        host.namespace.ip(&["link", "set", name, "up"]);
        let told = host.plan(&fabric(), &[]).unwrap_err().to_string();
        assert!(told.contains(words), "{told}");
        let immutable = told.contains("spec.vxlan");
        assert!(
            !immutable || told.contains("give its overlay another") && told.contains("delete this one"),
            "{told}"
        );
        assert!(host.show("ip -brief link show up").contains(name), "{name} keeps working");
        host.namespace.ip(&["link", "delete", name]);
    }
    // Another identifier on the port is no conflict, whoever comes first.
    run(host, "ip link add flannel.1 type vxlan id 1 dstport 7710 local 192.0.2.1 nolearning");
    host.namespace.ip(&["link", "set", "flannel.1", "up"]);
    assert!(host.apply(&[]).made);
    host.namespace.add_address("10.211.7.1/24", "eth0");
    let told = host.plan(&fabric(), &[]).unwrap_err().to_string();
    assert!(told.contains("overlaps address 10.211.7.1/24 of eth0"), "{told}");
}

#[test]
fn a_port_that_a_program_has_is_told() {
    if !require_kernel() {
        return;
    }
    let members = Members::new(&[Dialled::Ipv4]);
    let host = &members.hosts[0];
    let socket = host.namespace.run(|| when_free(|| std::net::UdpSocket::bind(("0.0.0.0", 7710)))).unwrap();
    let plan = host.plan(&fabric(), &[member(2, Dialled::Ipv4)]).unwrap();
    let told = host.netlink.apply(&plan, Deletions::Allowed).unwrap_err().to_string();
    // A fabric's port never changes.
    assert!(told.contains("create a TunnelFabric with another spec.vxlan.port"), "{told}");
    drop(socket);
    // A process that a test beside this one starts may hold the socket until it runs its program.
    let applied = wait_for(Duration::from_secs(30), || host.netlink.apply(&plan, Deletions::Allowed).ok());
    assert_eq!(applied.problems, plan.problems);
}
