//! One UDP socket that connects again and again, dissolves, and sends past its connection: its names are those of
//! now, never those of before.

use balancing_dataplane::model::Protocol;
use balancing_tests::{
    dataplane::{Family, World, canonical},
    *,
};

/// Two frontends with a backend each, a third with the first's and a fourth with the second's.
fn world(topic: &str, family: Family) -> World {
    let mut world = World::new(topic);
    for (frontend, backend) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        world.plane.redirect(Protocol::Udp, family.frontend(frontend), &[family.backend(backend)]);
    }
    world
}

fn said(data: &str, from: std::net::SocketAddr) -> Result<Message, Errno> {
    Ok(Message { data: data.into(), from: Some(from) })
}

/// The socket's connection works and is named by `name` everywhere.
#[track_caller]
fn assert_named(client: &mut Client, socket: Socket, server: &str, name: std::net::SocketAddr) {
    assert_eq!(client.peer_name(socket), Ok(name));
    assert_eq!(client.send(socket, "x"), Ok(()));
    assert_eq!(client.receive(socket), said(&format!("{server} x"), name));
}

#[test]
fn the_second_connection_is_named() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let world = world("reconnect", family);
        let mut client = world.client();
        let socket = client.open(family.udp());
        for (number, server) in [(1, "backend1"), (2, "backend2"), (3, "backend1"), (1, "backend1")] {
            assert_eq!(client.connect(socket, family.frontend(number)), Ok(()));
            assert_named(&mut client, socket, server, family.frontend(number));
        }
    }
}

#[test]
fn a_direct_connection_after_a_redirected_one_has_its_own_name() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let world = world("reconnect-direct", family);
        let mut client = world.client();
        let socket = client.open(family.udp());
        // To somebody else, and to the very backend of the frontend before.
        for (server, direct) in [("direct6", family.frontend(6)), ("backend1", family.backend(1))] {
            assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
            assert_named(&mut client, socket, "backend1", family.frontend(1));
            assert_eq!(client.connect(socket, direct), Ok(()));
            assert_named(&mut client, socket, server, direct);
        }
    }
}

/// Of a dissolved connection the kernel leaves no trace in the socket.
#[test]
fn a_dissolved_connection_leaves_the_next_ones_right() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let world = world("reconnect-unspec", family);
        let mut client = world.client();
        let socket = client.open(family.udp());
        let next = [
            ("direct6", family.frontend(6)),
            ("backend2", family.backend(2)),
            ("backend1", family.backend(1)),
        ];
        for (server, to) in next {
            assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
            assert_eq!(client.disconnect(socket), Ok(()));
            assert_eq!(client.peer_name(socket), Err(Errno::ENOTCONN));
            assert_eq!(client.connect(socket, to), Ok(()));
            assert_named(&mut client, socket, server, to);
            assert_eq!(client.disconnect(socket), Ok(()));
        }
        assert_eq!(client.connect(socket, family.frontend(2)), Ok(()));
        assert_named(&mut client, socket, "backend2", family.frontend(2));
        assert_eq!(client.disconnect(socket), Ok(()));
        // Linux 6.18 lets a dissolved IPv6 socket hear nobody but its last peer, with or without us.
        assert_eq!(client.send_to(socket, family.frontend(4), "y"), Ok(()));
        assert_eq!(client.receive(socket), said("backend2 y", family.frontend(4)));
    }
}

#[test]
fn a_bound_socket_is_forgotten_as_well() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let world = world("reconnect-bound", family);
        let mut client = world.client();
        let own = (family.own(), 4000).into();
        let socket = client.open_bound(family.udp(), own).unwrap();
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_named(&mut client, socket, "backend1", family.frontend(1));
        assert_eq!(client.sock_name(socket), Ok(own));
        assert_eq!(client.disconnect(socket), Ok(()));
        assert_eq!(client.connect(socket, family.backend(1)), Ok(()));
        assert_named(&mut client, socket, "backend1", family.backend(1));
    }
}

#[test]
fn a_dissolved_tcp_connection_leaves_the_next_one_right() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let mut world = World::new("reconnect-tcp");
        world.plane.redirect(Protocol::Tcp, family.frontend(1), &[family.backend(1)]);
        let mut client = world.client();
        let socket = client.open(family.tcp());
        for (to, server) in [(family.frontend(2), "direct2\n"), (family.frontend(1), "backend1\n")] {
            assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
            assert_eq!(client.peer_name(socket), Ok(family.frontend(1)));
            assert_eq!(client.disconnect(socket), Ok(()));
            assert_eq!(client.connect(socket, to), Ok(()));
            assert_eq!(client.peer_name(socket), Ok(to), "{family:?}");
            assert_eq!(client.receive(socket).unwrap().data, server);
            assert_eq!(client.disconnect(socket), Ok(()));
        }
    }
}

#[test]
fn sending_past_a_connection_names_the_latest_sender_only_in_messages() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let world = world("reconnect-past", family);
        let mut client = world.client();
        let socket = client.open(family.udp());
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        // Its backend is the connection's, so the kernel lets the answer in.
        assert_eq!(client.send_to(socket, family.frontend(3), "y"), Ok(()));
        assert_eq!(client.receive(socket), said("backend1 y", family.frontend(3)), "{family:?}");
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)), "{family:?}");
        let peer = world.real_peer(&mut client, family.udp(), socket);
        assert_eq!(peer, Some(canonical(family.backend(1))));
        // A new connection is named by itself again, whichever way it leads.
        assert_eq!(client.connect(socket, family.frontend(2)), Ok(()));
        assert_named(&mut client, socket, "backend2", family.frontend(2));
        assert_eq!(client.connect(socket, family.backend(1)), Ok(()));
        assert_named(&mut client, socket, "backend1", family.backend(1));
    }
}

#[test]
fn connecting_after_sending_names_the_connection() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let world = world("reconnect-sent", family);
        let mut client = world.client();
        let socket = client.open(family.udp());
        assert_eq!(client.send_to(socket, family.frontend(3), "y"), Ok(()));
        assert_eq!(client.receive(socket), said("backend1 y", family.frontend(3)));
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_named(&mut client, socket, "backend1", family.frontend(1));
        assert_eq!(client.connect(socket, family.backend(1)), Ok(()));
        assert_named(&mut client, socket, "backend1", family.backend(1));
    }
}

#[test]
fn a_refused_second_connection_leaves_the_first() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let mut world = world("reconnect-refused", family);
        let reject = dataplane::Layer { reject: true, ..dataplane::layer(7, &[]) };
        world.plane.publish(Protocol::Udp, family.frontend(5), dataplane::alone(reject));
        let mut client = world.client();
        let socket = client.open(family.udp());
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_eq!(client.connect(socket, family.frontend(5)), Err(dataplane::refusal()));
        assert_named(&mut client, socket, "backend1", family.frontend(1));
    }
}

#[test]
fn a_connection_from_before_the_policy_stays_where_it_is() {
    if !require_kernel() {
        return;
    }
    for family in Family::ALL {
        let mut world = World::new("reconnect-before");
        let mut client = world.client();
        let socket = client.open(family.udp());
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        // The kernel lets in answers of the connection's peer alone, so nothing may go elsewhere.
        assert_named(&mut client, socket, "direct1", family.frontend(1));
        assert_eq!(client.send_to(socket, family.frontend(1), "y"), Ok(()));
        assert_eq!(client.receive(socket), said("direct1 y", family.frontend(1)), "{family:?}");
        assert_eq!(world.plane.redirected(key), 0, "{family:?}");
        // Connecting again is a new decision.
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_named(&mut client, socket, "backend1", family.frontend(1));
        assert_eq!(world.plane.redirected(key), 1, "{family:?}");
    }
}
