//! What is none of ours stays as it is, with hooks attached and frontends programmed.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use balancing_dataplane::model::Protocol;
use balancing_tests::{
    dataplane::{Family, World},
    *,
};

/// Everything that has a server is redirected, over both protocols, so that whoever is touched is seen.
fn world(topic: &str) -> World {
    let mut world = World::new(topic);
    for family in [Family::V4, Family::V6] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            world.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]);
        }
    }
    world
}

#[test]
fn port_zero_is_the_kernels_business() {
    if !require_kernel() {
        return;
    }
    let world = world("untouched-zero");
    let (pod, elsewhere) = (&world.pod, Cgroup::new("untouched-zero-other"));
    for family in Family::ALL {
        let zero = SocketAddr::new(family.frontend(1).ip(), 0);
        let answers = [world.network.client(pod), world.network.client(&elsewhere)].map(|mut client| {
            let udp = client.open(family.udp());
            let sent = client.send_to(udp, zero, "x");
            let connected = client.connect(udp, zero);
            let tcp = client.open(family.tcp());
            (sent, connected, client.peer_name(udp).is_ok(), client.connect(tcp, zero))
        });
        assert_eq!(answers[0], answers[1], "{family:?}");
    }
}

#[test]
fn broadcast_and_multicast_arrive_as_they_were_sent() {
    if !require_kernel() {
        return;
    }
    let world = world("untouched-many");
    let netns = &world.network.netns;
    netns.ip_batch("route add 224.0.0.0/4 dev lo\nroute add broadcast 203.0.113.255 dev lo table local\n");
    // IPv6 multicast needs a device that is not the loopback one; it comes with a route for all groups.
    netns.ip_batch(
        "link add many0 type veth peer name many1\nlink set many1 up\nlink set many0 up\n\
         address add 2001:db8:d::1/64 dev many0 nodad\n",
    );
    let index = netns.ip(&["-o", "link", "show", "many0"]).split(':').next().unwrap().trim().parse().unwrap();
    let mut client = world.client();
    let group4 = SocketAddr::from((Ipv4Addr::new(239, 1, 2, 3), 1500));
    let group6 = SocketAddr::from((Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3), 1500));
    let broadcast = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 255), 1500));
    for to in [group4, broadcast, group6] {
        let listener = netns.run(|| {
            let any: SocketAddr = if to.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 1500).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 1500).into()
            };
            let socket = when_free(|| std::net::UdpSocket::bind(any)).unwrap();
            match to.ip() {
                std::net::IpAddr::V4(ip) if ip.is_multicast() => {
                    socket.join_multicast_v4(&ip, &Ipv4Addr::new(203, 0, 113, 2)).unwrap();
                }
                std::net::IpAddr::V6(ip) => socket.join_multicast_v6(&ip, index).unwrap(),
                std::net::IpAddr::V4(_) => {}
            }
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            socket
        });
        let socket = client.open(Kind::udp(to));
        assert_eq!(client.send_to(socket, to, "to many"), Ok(()), "{to}");
        let mut buffer = [0; 100];
        let (length, _) = listener.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(&buffer[..length], b"to many");
        assert_eq!(client.connect(socket, to), Ok(()), "{to}");
        assert_eq!(client.peer_name(socket), Ok(to));
    }
}

#[test]
fn echo_requests_go_where_they_are_sent() {
    if !require_kernel() {
        return;
    }
    let world = world("untouched-icmp");
    world.network.netns.sysctl("ipv4/ping_group_range", "0 2147483647");
    let mut client = world.client();
    for (family, kind) in [(Family::V4, Kind::Icmp4), (Family::V6, Kind::Icmp6)] {
        let Ok(socket) = client.try_open(kind) else {
            return eprintln!("ICMP sockets are not available: not tested");
        };
        // ICMP knows no port; one that is a frontend's for TCP and UDP must not matter.
        let to = family.frontend(1);
        assert_eq!(client.connect(socket, to), Ok(()), "{family:?}");
        assert_eq!(client.peer_name(socket).map(|peer| peer.ip()), Ok(to.ip()), "{family:?}");
        if family == Family::V4 {
            // Type 8, code 0; the kernel fills in checksum and identifier.
            assert_eq!(client.send(socket, "\u{8}\0\0\0\0\0\0\u{1}hello"), Ok(()));
            let reply = client.receive(socket).unwrap();
            assert!(reply.data.ends_with("hello"), "{reply:?}");
            assert_eq!(reply.from.map(|from| from.ip()), Some(to.ip()));
        }
    }
}

#[test]
fn other_addresses_and_ports_are_left_alone() {
    if !require_kernel() {
        return;
    }
    let world = world("untouched-other");
    let mut client = world.client();
    for family in Family::ALL {
        let other_port = SocketAddr::new(family.frontend(1).ip().to_canonical(), 1001);
        let _server = EchoServer::start(&world.network.netns, "other-port", &[other_port]);
        let dialled = SocketAddr::new(family.frontend(1).ip(), 1001);
        for (to, name) in
            [(dialled, "other-port"), (family.frontend(2), "direct2"), (family.backend(1), "backend1")]
        {
            assert_eq!(client.ask_tcp(to).as_deref(), Ok(name), "{family:?}");
            assert_eq!(client.ask_udp(to).as_deref(), Ok(name), "{family:?}");
            let socket = client.open(family.udp());
            client.send_to(socket, to, "x").unwrap();
            let heard = client.receive(socket).unwrap();
            assert_eq!((heard.data, heard.from), (format!("{name} x"), Some(to)));
        }
    }
    let errors = world.plane.reader().hook_errors().unwrap();
    assert!(errors.iter().all(|(_, count)| *count == 0), "{errors:?}");
}

#[test]
fn unix_sockets_work() {
    if !require_kernel() {
        return;
    }
    // Passing a socket goes through a unix socket in the hooked cgroup.
    let world = world("untouched-unix");
    let (mut client, mut other) = (world.client(), world.client());
    let socket = client.open(Kind::Udp4);
    assert_eq!(client.connect(socket, Family::V4.frontend(2)), Ok(()));
    let passed = client.pass(socket, &mut other);
    assert_eq!(other.peer_name(passed), Ok(Family::V4.frontend(2)));
}
