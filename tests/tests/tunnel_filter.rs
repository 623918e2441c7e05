//! Only members reach the tunnel, each with its own addresses; what is dropped is counted by reason.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use balancing_tests::{
    NetNs, require_kernel,
    tunnel::{Dialled, Host, Members, Packet, fabric},
    wait_until,
};
use balancing_tunnel::{AcceptFrom, Fabric, Filter, Member, filter::forward};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two members and a stranger beside them; the first has the filter.
struct Scene {
    members: Members,
    filter: Filter,
}

impl Scene {
    fn new(dialled: Dialled) -> Self {
        let members = Members::new(&[dialled; 3]);
        let inside = &members.all()[..2];
        for host in &members.hosts[..2] {
            _ = host.apply(inside);
        }
        let mut scene = Self { members, filter: Filter::new() };
        assert!(scene.apply(2));
        scene.members.inside(2).into_iter().for_each(|address| scene.members.hosts[0].wait_for(address));
        scene
    }

    /// Lets the first `count` members in; whether that changed the table.
    fn apply(&mut self, count: usize) -> bool {
        let inside = self.members.all()[..count].to_vec();
        let (filter, host) = (&mut self.filter, &self.members.hosts[0]);
        host.namespace.run(|| filter.apply(&inside, &fabric(), &host.own)).unwrap().changed
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.members.hosts[0].namespace.run(|| self.filter.counters()).unwrap()
    }

    fn counted(&self, reason: &str) -> u64 {
        self.counters()[reason]
    }

    /// Sends a packet to the tunnel port of the first member, from host number `from`, once over each family.
    fn inject(&self, from: usize, packet: Packet) {
        for underlay in self.members.hosts[0].own.underlay.iter() {
            send(&self.members.hosts[from - 1].namespace, underlay, &packet.bytes(b"forged"));
        }
    }

    /// A packet into the tunnel as if from host number `n`.
    fn pretending(&self, n: usize, port: u16, ipv4: bool) -> Packet {
        let address = |host: &Host| host.own.addresses.iter().find(|ip| ip.is_ipv4() == ipv4).unwrap();
        Packet {
            vni: 7710,
            to: self.members.hosts[0].own.mac,
            source: address(&self.members.hosts[n - 1]),
            destination: SocketAddr::new(address(&self.members.hosts[0]), port),
            ethertype: None,
        }
    }
}

fn send(from: &NetNs, to: IpAddr, payload: &[u8]) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| UdpSocket::bind(any)).unwrap();
    socket.send_to(payload, (to, 7710)).unwrap();
}

/// A socket that hears what comes through.
fn victim(host: &Host, ipv4: bool) -> UdpSocket {
    let any = if ipv4 { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.namespace.run(|| UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn hears(socket: &UdpSocket) -> bool {
    socket.recv(&mut [0; 64]).is_ok_and(|length| length == b"forged".len())
}

fn forgeries_are_dropped(dialled: Dialled) {
    let scene = Scene::new(dialled);
    for ipv4 in [true, false] {
        let socket = victim(&scene.members.hosts[0], ipv4);
        let port = socket.local_addr().unwrap().port();
        let before = scene.counters();
        // A stranger in a member's name; a member in a stranger's; a member with what is no IP packet.
        scene.inject(3, scene.pretending(2, port, ipv4));
        scene.inject(2, scene.pretending(3, port, ipv4));
        scene.inject(2, Packet { ethertype: Some(0x0806), ..scene.pretending(2, port, ipv4) });
        for reason in ["not_a_member", "wrong_inner_source", "not_ip"] {
            wait_until(PATIENCE, || scene.counted(reason) == before[reason] + 1);
        }
        socket.set_nonblocking(true).unwrap();
        assert!(!hears(&socket), "a forged packet came through");
        socket.set_nonblocking(false).unwrap();
        // The same by hand from the member itself comes through: the forgeries were well made.
        scene.inject(2, scene.pretending(2, port, ipv4));
        assert!(hears(&socket));
    }
}

#[test]
fn forgeries_over_ipv4_are_dropped_and_counted() {
    if require_kernel() {
        forgeries_are_dropped(Dialled::Ipv4);
    }
}

#[test]
fn forgeries_over_ipv6_are_dropped_and_counted() {
    if require_kernel() {
        forgeries_are_dropped(Dialled::Ipv6);
    }
}

#[test]
fn members_pass_and_another_vni_on_the_port_is_left_alone() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new(Dialled::Both);
    scene.apply(3);
    scene.members.apply();
    scene.members.prove_all_pairs();
    assert!(scene.counters().values().all(|&count| count == 0), "{:?}", scene.counters());

    scene.apply(2);
    let host = &scene.members.hosts[0];
    _ = host
        .show("ip link add other0 address 02:00:00:00:00:44 type vxlan id 5 dstport 7710 local 192.0.2.1");
    host.namespace.ip(&["link", "set", "other0", "up"]);
    host.namespace.add_address("198.51.100.1/24", "other0");
    let socket = victim(host, true);
    let packet = Packet {
        vni: 5,
        to: "02:00:00:00:00:44".parse().unwrap(),
        source: "198.51.100.2".parse().unwrap(),
        destination: SocketAddr::new("198.51.100.1".parse().unwrap(), socket.local_addr().unwrap().port()),
        ethertype: None,
    };
    send(&scene.members.hosts[2].namespace, host.own.underlay.v4.unwrap().into(), &packet.bytes(b"forged"));
    assert!(hears(&socket));
}

#[test]
fn a_pod_cannot_send_to_the_port_also_not_in_pieces() {
    if !require_kernel() {
        return;
    }
    let scene = Scene::new(Dialled::Ipv4);
    let (host, pod) = (&scene.members.hosts[0], NetNs::new());
    pod.join("eth0", &host.namespace, "pod0");
    pod.add_address("172.20.0.2/24", "eth0");
    host.namespace.add_address("172.20.0.1/24", "pod0");
    host.namespace.sysctl("ipv4/ip_forward", "1");
    pod.ip(&["route", "add", "default", "via", "172.20.0.1"]);
    // By the gateway: its own address is not forwarded to, and a stranger is no member.
    let packet = scene.pretending(1, 9, true);
    send(&pod, host.own.underlay.v4.unwrap().into(), &packet.bytes(b"forged"));
    wait_until(PATIENCE, || scene.counted("not_a_member") == 1);
    let peer = scene.members.hosts[1].own.underlay.v4.unwrap().into();
    send(&pod, peer, &packet.bytes(b"forged"));
    wait_until(PATIENCE, || scene.counted("from_a_pod") == 1);
    send(&pod, peer, &packet.bytes(&[0; 4000]));
    wait_until(PATIENCE, || scene.counted("from_a_pod") == 2);
    // A pod's own business with others is none of ours.
    send(&pod, peer, &Packet { vni: 1, ..packet }.bytes(b"forged"));
    assert_eq!(scene.counted("from_a_pod"), 2);
    // A first piece that ends before the identifier is the start of a packet that nobody could look into.
    send_first_piece(&pod, "172.20.0.2".parse().unwrap(), scene.members.hosts[1].own.underlay.v4.unwrap());
    wait_until(PATIENCE, || scene.counted("from_a_pod") == 3);
}

/// Sends the first fragment of an IPv4 packet: the UDP header alone.
fn send_first_piece(from: &NetNs, source: Ipv4Addr, to: Ipv4Addr) {
    let header = [
        &[0x45, 0, 0, 28, 0, 1, 0x20, 0, 64, 17, 0, 0][..],
        &source.octets(),
        &to.octets(),
        &[0x13, 0x88],
        &7710u16.to_be_bytes(),
        &[0, 100, 0, 0],
    ]
    .concat();
    let raw = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw);
    let raw = from.run(raw).unwrap();
    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
    sendto(raw.as_raw_fd(), &header, &to, MsgFlags::empty()).unwrap();
}

#[test]
fn an_unchanged_table_is_left_and_a_damaged_one_is_repaired() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new(Dialled::Ipv4);
    assert!(!scene.apply(2));
    scene.inject(3, scene.pretending(2, 9, true));
    wait_until(PATIENCE, || scene.counted("not_a_member") == 1);
    for damage in [
        "nft flush table inet balancing",
        "nft flush chain inet balancing tunnel",
        "nft add rule inet balancing tunnel accept",
        "nft flush set inet balancing members4",
        "nft delete element inet balancing bound44 { 192.0.2.2 . 0x0ad30002 }",
        "nft add element inet balancing bound44 { 192.0.2.3 . 0x0ad30002 }",
        "nft add element inet balancing members6 { 2001:db8::77 }",
    ] {
        _ = scene.members.hosts[0].show(damage);
        assert!(scene.apply(2), "{damage}");
        assert!(!scene.apply(2));
    }
    assert_eq!(scene.counted("not_a_member"), 1, "counters outlive a repair");
    // An element that somebody took is no reason to fail when its member goes.
    _ = scene.members.hosts[0].show("nft delete element inet balancing members4 { 192.0.2.2 }");
    assert!(scene.apply(1));
    _ = scene.members.hosts[0].show("nft flush ruleset");
    assert!(scene.apply(2));
    // What an older program left is of other types.
    for leftover in [
        "nft delete table inet balancing",
        "nft add table inet balancing",
        "nft add chain inet balancing members4",
    ] {
        _ = scene.members.hosts[0].show(leftover);
    }
    _ = scene.members.hosts[0].show("nft add set inet balancing members6 { type ipv4_addr ; }");
    assert!(scene.apply(2));
    assert!(!scene.apply(2));
}

#[test]
fn rules_of_others_that_keep_packets_from_pods_are_told() {
    if !require_kernel() {
        return;
    }
    let scene = Scene::new(Dialled::Ipv4);
    let host = &scene.members.hosts[0];
    let told = || host.namespace.run(|| forward::drops(&["balancing0", "balancing1"])).unwrap();
    assert_eq!(told(), [] as [&str; 0], "our own accepts");
    for command in [
        "nft add table ip filter",
        "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
        "nft add chain ip filter INPUT { type filter hook input priority 0 ; policy drop ; }",
        "nft add rule ip filter INPUT accept",
        "nft add table inet other",
        "nft add chain inet other FORWARD { type filter hook forward priority 0 ; policy accept ; }",
    ] {
        _ = host.show(command);
    }
    let [one] = &told()[..] else { panic!("{:?}", told()) };
    assert!(one.starts_with("chain FORWARD of table ip filter drops"), "{one}");
    assert!(one.contains("comes from balancing0 and balancing1 and what"), "{one}");
    _ = host.show("nft add rule ip filter FORWARD iifname balancing0 accept");
    let [one] = &told()[..] else { panic!("{:?}", told()) };
    assert!(one.contains("none names balancing1:"), "{one}");
    _ = host.show("nft add rule ip filter FORWARD iifname balancing1 accept");
    assert_eq!(told(), [] as [&str; 0], "somebody has thought of it");
}

#[test]
fn a_new_program_takes_the_table_over() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new(Dialled::Ipv4);
    scene.filter = Filter::new();
    assert!(!scene.apply(2), "what is right stays");
    scene.filter = Filter::new();
    assert!(scene.apply(1));
    scene.inject(2, scene.pretending(2, 9, true));
    wait_until(PATIENCE, || scene.counted("not_a_member") == 1);
}

#[test]
fn anyone_means_no_table() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new(Dialled::Ipv4);
    let host = &scene.members.hosts[0];
    let anyone = Fabric { accept_from: AcceptFrom::Anyone, ..fabric() };
    let none: &[Member] = &[];
    let filter = &mut scene.filter;
    assert!(host.namespace.run(|| filter.apply(none, &anyone, &host.own)).unwrap().changed);
    assert!(!host.namespace.run(|| filter.apply(none, &anyone, &host.own)).unwrap().changed);
    assert!(!host.show("nft list tables").contains("balancing"));
    assert!(host.namespace.run(|| filter.counters()).unwrap().is_empty());
    assert!(!host.namespace.run(|| filter.remove()).unwrap().changed);
}

#[test]
fn members_lose_nothing_while_others_come_and_go() {
    if !require_kernel() {
        return;
    }
    let mut scene = Scene::new(Dialled::Ipv4);
    let echo = victim(&scene.members.hosts[0], true);
    let target = SocketAddr::new(
        scene.members.hosts[0].own.addresses.v4.unwrap().into(),
        echo.local_addr().unwrap().port(),
    );
    let client = victim(&scene.members.hosts[1], true);
    let done = AtomicBool::new(false);
    let exchanged = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut buffer = [0; 8];
            loop {
                let (length, peer) = echo.recv_from(&mut buffer).expect("a packet of a member was lost");
                if &buffer[..length] == b"end" {
                    return;
                }
                echo.send_to(&buffer[..length], peer).unwrap();
            }
        });
        let traffic = scope.spawn(|| {
            let mut number = 0u64;
            while !done.load(Ordering::Relaxed) {
                client.send_to(&number.to_be_bytes(), target).unwrap();
                let mut answer = [0; 8];
                client.recv(&mut answer).expect("a packet of a member was lost");
                assert_eq!(u64::from_be_bytes(answer), number);
                number += 1;
            }
            client.send_to(b"end", target).unwrap();
            number
        });
        for round in 0..20 {
            assert!(scene.apply(3 - round % 2));
        }
        done.store(true, Ordering::Relaxed);
        server.join().unwrap();
        traffic.join().unwrap()
    });
    assert!(exchanged > 0);
}
