//! TCP sockets in every way of connecting: the redirection, and what the socket tells its owner.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use balancing_dataplane::model::Protocol;
use balancing_tests::{
    dataplane::{DataPlane, Family, Network, World, canonical},
    *,
};

/// A connection to the first frontend that was redirected to the first backend, seen from all sides.
#[track_caller]
fn assert_redirected(world: &World, client: &mut Client, family: Family, kind: Kind, socket: Socket) {
    assert_eq!(client.receive(socket).map(|m| m.data), Ok("backend1\n".into()), "{family:?}");
    assert_eq!(client.peer_name(socket), Ok(family.frontend(1)), "{family:?}");
    let own = client.sock_name(socket).expect("an own address");
    assert_eq!(own.ip(), family.own(), "{family:?}");
    assert_ne!(own.port(), 0);
    assert_eq!(world.network.real_peer(kind, own.port()), Some(canonical(family.backend(1))));
    assert_eq!(client.send(socket, "and back"), Ok(()));
    assert_eq!(client.receive(socket).map(|m| m.data), Ok("and back".into()), "{family:?}");
}

#[test]
fn every_way_of_connecting_is_redirected_and_keeps_the_dialled_name() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp");
    let mut client = world.client();
    let mut ways = vec![Connect::Blocking, Connect::NonBlocking];
    if client.has_uring() {
        ways.push(Connect::Uring);
    } else {
        eprintln!("io_uring is not available: not tested");
    }
    for family in Family::ALL {
        let key = world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        let before = world.plane.redirected(key);
        for how in &ways {
            let socket = client.open(family.tcp());
            assert_eq!(client.connect_by(*how, socket, family.frontend(1)), Ok(()), "{how:?}");
            assert_redirected(&world, &mut client, family, family.tcp(), socket);
            client.close(socket);
        }
        assert_eq!(world.plane.redirected(key) - before, ways.len() as u64, "{family:?}");
    }
}

#[test]
fn without_the_policy_everything_is_as_dialled() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-none");
    let mut client = world.client();
    for family in Family::ALL {
        let key = world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("backend1"));
        assert_eq!(client.ask_tcp(family.frontend(2)).as_deref(), Ok("direct2"), "another address");
        world.plane.tables.remove(&key).unwrap();
        let socket = client.open(family.tcp());
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_eq!(client.receive(socket).unwrap().data, "direct1\n");
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)));
    }
}

#[test]
fn a_bound_socket_keeps_its_address_and_port() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-bound");
    let mut client = world.client();
    for (family, port) in Family::ALL.into_iter().zip(4001..) {
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        let own = (family.own(), port).into();
        let socket = client.open_bound(family.tcp(), own).unwrap();
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_eq!(client.sock_name(socket), Ok(own));
        assert_redirected(&world, &mut client, family, family.tcp(), socket);
    }
}

#[test]
fn a_socket_opened_before_the_policy_is_redirected_when_it_connects() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-before");
    let mut client = world.client();
    for family in Family::ALL {
        let (waiting, connected) = (client.open(family.tcp()), client.open(family.tcp()));
        assert_eq!(client.connect(connected, family.frontend(1)), Ok(()));
        let key = world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        assert_eq!(client.connect(waiting, family.frontend(1)), Ok(()));
        assert_redirected(&world, &mut client, family, family.tcp(), waiting);
        // A connection that was there goes on where it was.
        assert_eq!(client.receive(connected).unwrap().data, "direct1\n");
        assert_eq!(client.peer_name(connected), Ok(family.frontend(1)));
        world.plane.tables.remove(&key).unwrap();
        // And so does a redirected one when its policy goes.
        assert_eq!(client.send(waiting, "still"), Ok(()));
        assert_eq!(client.receive(waiting).unwrap().data, "still");
        assert_eq!(client.peer_name(waiting), Ok(family.frontend(1)), "the name outlives the policy");
    }
}

#[test]
fn a_socket_opened_before_the_links_is_redirected_when_it_connects() {
    if !require_kernel() {
        return;
    }
    let mut plane = DataPlane::new("tcp-links");
    let (network, pod) = (Network::new(), Cgroup::new("tcp-links"));
    let mut client = network.client(&pod);
    let sockets = Family::ALL.map(|family| (family, client.open(family.tcp())));
    plane.attach_pod(&pod);
    for (family, socket) in sockets {
        plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_eq!(client.receive(socket).unwrap().data, "backend1\n", "{family:?}");
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)));
    }
}

#[test]
fn outside_the_cgroup_nothing_happens() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-outside");
    let elsewhere = Cgroup::new("tcp-elsewhere");
    let mut stranger = world.network.client(&elsewhere);
    let mut below = world.network.client(&world.pod.child("container"));
    for family in Family::ALL {
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        assert_eq!(stranger.ask_tcp(family.frontend(1)).as_deref(), Ok("direct1"));
        assert_eq!(
            below.ask_tcp(family.frontend(1)).as_deref(),
            Ok("backend1"),
            "a child of the pod's cgroup"
        );
    }
}

#[test]
fn an_inherited_socket_keeps_the_name() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-fork");
    let mut client = world.client();
    for family in Family::ALL {
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        let socket = client.open(family.tcp());
        assert_eq!(client.fork_connect(socket, family.frontend(1)), Ok(()));
        assert_redirected(&world, &mut client, family, family.tcp(), socket);
        assert_eq!(client.fork_peer_name(socket), Ok(family.frontend(1)));
    }
}

#[test]
fn a_passed_socket_belongs_to_the_pod_that_made_it() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-pass");
    let elsewhere = Cgroup::new("tcp-pass-other");
    let (mut client, mut other) = (world.client(), world.network.client(&elsewhere));
    for family in Family::ALL {
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        // The receiver connects: the hooks of the maker's cgroup act.
        let socket = client.open(family.tcp());
        let passed = client.pass(socket, &mut other);
        assert_eq!(other.connect(passed, family.frontend(1)), Ok(()));
        assert_eq!(other.receive(passed).unwrap().data, "backend1\n");
        assert_eq!(other.peer_name(passed), Ok(family.frontend(1)), "the receiver's view, {family:?}");
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)), "the maker's view, {family:?}");
        // And the other way round: a stranger's socket is a stranger's in the pod too.
        let strange = other.open(family.tcp());
        let taken = other.pass(strange, &mut client);
        assert_eq!(client.connect(taken, family.frontend(1)), Ok(()));
        assert_eq!(client.receive(taken).unwrap().data, "direct1\n", "{family:?}");
    }
}

#[test]
fn fast_open_is_redirected() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-fastopen");
    world.network.netns.sysctl("ipv4/tcp_fastopen", "1");
    let mut client = world.client();
    for family in Family::ALL {
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        let socket = client.open(family.tcp());
        match client.fast_open(socket, family.frontend(1), "first") {
            Err(Errno::EOPNOTSUPP) => return eprintln!("TCP Fast Open is not available: not tested"),
            sent => assert_eq!(sent, Ok(()), "{family:?}"),
        }
        let mut data = String::new();
        while data.len() < "backend1\nfirst".len() {
            data += &client.receive(socket).unwrap().data;
        }
        assert_eq!(data, "backend1\nfirst", "{family:?}");
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)), "{family:?}");
        let peer = world.real_peer(&mut client, family.tcp(), socket);
        assert_eq!(peer, Some(canonical(family.backend(1))));
    }
}

#[test]
fn multipath_tcp_is_redirected() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-mptcp");
    let mut client = world.client();
    for (family, kind) in
        [(Family::V4, Kind::Mptcp4), (Family::V6, Kind::Mptcp6), (Family::Mapped, Kind::Mptcp6)]
    {
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        let Ok(socket) = client.try_open(kind) else {
            return eprintln!("MPTCP is not available: not tested");
        };
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()), "{family:?}");
        assert_eq!(client.receive(socket).unwrap().data, "backend1\n", "{family:?}");
        // The kernel connects a subflow, a socket of its own, and asks for the name of the whole: there is no
        // record under that socket, and the truth is told.
        assert_eq!(client.peer_name(socket), Ok(family.backend(1)), "{family:?}");
    }
}

#[test]
fn a_refused_connection_may_be_tried_again() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-refused");
    let mut client = world.client();
    for family in Family::ALL {
        let closed = std::net::SocketAddr::new(family.backend(1).ip(), 1);
        let key = world.plane.redirect(Protocol::Tcp, family.frontend(1), &[closed]);
        let socket = client.open(family.tcp());
        assert_eq!(client.connect(socket, family.frontend(1)), Err(Errno::ECONNREFUSED));
        assert_eq!(client.peer_name(socket), Err(Errno::ENOTCONN));
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_redirected(&world, &mut client, family, family.tcp(), socket);
        world.plane.tables.remove(&key).unwrap();
    }
}

#[test]
fn only_the_protocol_of_the_frontend_is_redirected() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("tcp-protocol");
    let mut client = world.client();
    for family in Family::ALL {
        let key = world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        assert_eq!(client.ask_tcp(family.frontend(1)).as_deref(), Ok("backend1"));
        assert_eq!(client.ask_udp(family.frontend(1)).as_deref(), Ok("direct1"), "{family:?}");
        let socket = client.open(family.udp());
        assert_eq!(client.send_to(socket, family.frontend(1), "x"), Ok(()));
        assert_eq!(client.receive(socket).unwrap().data, "direct1 x", "{family:?}");
        world.plane.tables.remove(&key).unwrap();
        world.plane.redirect(Protocol::Udp, family.frontend(2), &[family.backend(1)]);
        assert_eq!(client.ask_tcp(family.frontend(2)).as_deref(), Ok("direct2"), "{family:?}");
        assert_eq!(client.ask_udp(family.frontend(2)).as_deref(), Ok("backend1"), "{family:?}");
    }
}
