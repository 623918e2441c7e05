//! UDP sockets, connected or not: the redirection, and whose name replies carry.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{net::SocketAddr, time::Duration};

use balancing_dataplane::model::Protocol;
use balancing_tests::{
    dataplane::{Family, Layer, World, alone, canonical, layer},
    *,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// A message from an address.
fn said(data: impl Into<String>, from: SocketAddr) -> Result<Message, Errno> {
    Ok(Message { data: data.into(), from: Some(from) })
}

/// What the next messages say and where they come from, in alphabetical order: servers answer in any order.
fn hear(client: &mut Client, socket: Socket, count: usize) -> Vec<(String, Option<SocketAddr>)> {
    let mut heard: Vec<_> = (0..count)
        .map(|_| client.receive_by(Receive::RecvMsg, socket, PATIENCE).expect("a message"))
        .map(|message| (message.data, message.from))
        .collect();
    heard.sort();
    heard
}

/// Redirects the frontends 1 to 5: to backends of their own, the fifth to the first's.
fn redirect_five(world: &mut World, family: Family) {
    for number in 1..=5 {
        let backend = family.backend(if number == 5 { 1 } else { number });
        world.plane.redirect(Protocol::Udp, family.frontend(number), &[backend]);
    }
}

#[test]
fn a_connected_socket_is_redirected_and_keeps_the_dialled_name() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp");
    let mut client = world.client();
    for family in Family::ALL {
        let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        let before = world.plane.redirected(key);
        let mut ways = vec![Connect::Blocking, Connect::NonBlocking];
        ways.extend(client.has_uring().then_some(Connect::Uring));
        for how in &ways {
            let socket = client.open(family.udp());
            assert_eq!(client.connect_by(*how, socket, family.frontend(1)), Ok(()), "{how:?}");
            assert_eq!(client.peer_name(socket), Ok(family.frontend(1)));
            let own = client.sock_name(socket).unwrap();
            assert_eq!(own.ip(), family.own());
            assert_ne!(own.port(), 0);
            let peer = world.network.real_peer(family.udp(), own.port());
            assert_eq!(peer, Some(canonical(family.backend(1))));
            client.send(socket, "a").unwrap();
            client.send_msg(socket, None, "b").unwrap();
            assert_eq!(client.receive(socket), said("backend1 a", family.frontend(1)), "{family:?} {how:?}");
            let message = client.receive_by(Receive::RecvMsg, socket, PATIENCE);
            assert_eq!(message, said("backend1 b", family.frontend(1)), "{family:?} {how:?}");
            assert_eq!(client.sock_name(socket), Ok(own));
        }
        assert_eq!(world.plane.redirected(key) - before, ways.len() as u64, "once a connection");
    }
}

#[test]
fn an_unconnected_socket_is_redirected_and_hears_from_whom_it_dialled() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-to");
    let mut client = world.client();
    for family in Family::ALL {
        let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        let before = world.plane.redirected(key);
        let socket = client.open(family.udp());
        client.send_to(socket, family.frontend(1), "a").unwrap();
        let port = client.sock_name(socket).unwrap().port();
        client.send_msg(socket, Some(family.frontend(1)), "b").unwrap();
        assert_eq!(client.receive(socket), said("backend1 a", family.frontend(1)), "{family:?}");
        let message = client.receive_by(Receive::RecvMsg, socket, PATIENCE);
        assert_eq!(message, said("backend1 b", family.frontend(1)), "{family:?}");
        assert_eq!(client.peer_name(socket), Err(Errno::ENOTCONN));
        assert_eq!(client.sock_name(socket).unwrap().port(), port);
        assert_eq!(world.plane.redirected(key) - before, 2, "once a datagram");
    }
}

#[test]
fn four_frontends_on_one_socket_are_told_apart() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-four");
    let mut client = world.client();
    for family in Family::ALL {
        redirect_five(&mut world, family);
        let socket = client.open(family.udp());
        for number in 1..=4 {
            client.send_to(socket, family.frontend(number), &format!("to {number}")).unwrap();
        }
        // A stranger among them is heard under its own name.
        client.send_to(socket, family.frontend(6), "to 6").unwrap();
        let mut expected: Vec<_> = (1..=4)
            .map(|number| (format!("backend{number} to {number}"), Some(family.frontend(number))))
            .collect();
        expected.push(("direct6 to 6".into(), Some(family.frontend(6))));
        assert_eq!(hear(&mut client, socket, 5), expected, "{family:?}");
    }
}

#[test]
fn one_sendmmsg_to_several_frontends() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-mmsg");
    let mut client = world.client();
    for family in Family::ALL {
        redirect_five(&mut world, family);
        let socket = client.open(family.udp());
        let messages = [(1, "a"), (2, "b"), (6, "c"), (3, "d"), (1, "e")]
            .map(|(number, data)| (family.frontend(number), data));
        assert_eq!(client.send_mmsg(socket, &messages), Ok(5));
        let expected =
            [(1, "backend1 a"), (1, "backend1 e"), (2, "backend2 b"), (3, "backend3 d"), (6, "direct6 c")]
                .map(|(number, data)| (data.to_owned(), Some(family.frontend(number))));
        assert_eq!(hear(&mut client, socket, 5), expected, "{family:?}");
    }
}

#[test]
fn a_fifth_frontend_takes_the_place_of_the_oldest() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-five");
    let mut client = world.client();
    for family in Family::ALL {
        redirect_five(&mut world, family);
        // The fifth has a backend of its own here, so that nothing but the place is shared.
        let address = SocketAddr::new(family.backend(1).ip().to_canonical(), 3000);
        let extra = EchoServer::start(&world.network.netns, "extra", &[address]);
        world.plane.redirect(Protocol::Udp, family.frontend(5), &[extra.address()]);
        let socket = client.open(family.udp());
        for number in 1..=4 {
            client.send_to(socket, family.frontend(number), "x").unwrap();
        }
        // The first is used again, so the second is the oldest.
        client.send_to(socket, family.frontend(1), "y").unwrap();
        client.send_to(socket, family.frontend(5), "z").unwrap();
        let expected = [
            ("backend1 x", family.frontend(1)),
            ("backend1 y", family.frontend(1)),
            ("backend2 x", family.backend(2)),
            ("backend3 x", family.frontend(3)),
            ("backend4 x", family.frontend(4)),
            ("extra z", family.frontend(5)),
        ]
        .map(|(data, from)| (data.to_owned(), Some(from)));
        assert_eq!(hear(&mut client, socket, 6), expected, "{family:?}");
        // Using the forgotten one makes it known again.
        client.send_to(socket, family.frontend(2), "again").unwrap();
        assert_eq!(client.receive(socket), said("backend2 again", family.frontend(2)));
    }
}

#[test]
fn of_two_frontends_with_one_backend_the_last_used_is_named() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-same");
    let mut client = world.client();
    for family in Family::ALL {
        redirect_five(&mut world, family);
        let socket = client.open(family.udp());
        for number in [1, 5, 1, 5] {
            client.send_to(socket, family.frontend(number), "x").unwrap();
            assert_eq!(client.receive(socket), said("backend1 x", family.frontend(number)), "{family:?}");
        }
    }
}

#[test]
fn an_unconnected_socket_keeps_its_backend_while_it_lives() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-keep");
    let mut client = world.client();
    for family in Family::ALL {
        let all = [1, 2, 3, 4].map(|number| family.backend(number));
        for number in [1, 2] {
            world.plane.redirect(Protocol::Udp, family.frontend(number), &all);
        }
        let socket = client.open(family.udp());
        let ask = |client: &mut Client, number: u8| {
            client.send_to(socket, family.frontend(number), "x")?;
            client.receive(socket).map(|message| (message.data, message.from))
        };
        let (first, from) = ask(&mut client, 1).unwrap();
        assert_eq!(from, Some(family.frontend(1)));
        let second = ask(&mut client, 2).unwrap().0;
        // Of four backends, thirty picks in a row would hit the same with 4^-30.
        for _ in 0..30 {
            assert_eq!(ask(&mut client, 1).unwrap().0, first, "{family:?}");
            assert_eq!(ask(&mut client, 2).unwrap().0, second, "{family:?}");
        }
        // It leaves the set: the socket moves at once and stays where it moved to.
        let index: usize = first["backend".len()..][..1].parse().unwrap();
        let others: Vec<_> =
            all.into_iter().enumerate().filter(|(i, _)| i + 1 != index).map(|(_, b)| b).collect();
        world.plane.redirect(Protocol::Udp, family.frontend(1), &others);
        let (moved, from) = ask(&mut client, 1).unwrap();
        assert_ne!(moved, first, "{family:?}");
        assert_eq!(from, Some(family.frontend(1)));
        for _ in 0..30 {
            assert_eq!(ask(&mut client, 1).unwrap().0, moved, "{family:?}");
            assert_eq!(ask(&mut client, 2).unwrap().0, second, "the other frontend is not concerned");
        }
        // And again when only one other is left.
        let index: usize = moved["backend".len()..][..1].parse().unwrap();
        let last = others.into_iter().find(|b| *b != all[index - 1]).unwrap();
        world.plane.redirect(Protocol::Udp, family.frontend(1), &[last]);
        assert_ne!(ask(&mut client, 1).unwrap().0, moved, "{family:?}");
    }
}

#[test]
fn a_passed_and_an_inherited_socket_keep_the_names() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-pass");
    let elsewhere = Cgroup::new("udp-pass-other");
    let (mut client, mut other) = (world.client(), world.network.client(&elsewhere));
    for family in Family::ALL {
        world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        let socket = client.open(family.udp());
        client.send_to(socket, family.frontend(1), "x").unwrap();
        let passed = client.pass(socket, &mut other);
        assert_eq!(other.receive(passed), said("backend1 x", family.frontend(1)), "{family:?}");
        other.send_to(passed, family.frontend(1), "y").unwrap();
        assert_eq!(client.receive(socket), said("backend1 y", family.frontend(1)), "{family:?}");

        let connected = client.open(family.udp());
        assert_eq!(client.fork_connect(connected, family.frontend(1)), Ok(()));
        assert_eq!(client.fork_peer_name(connected), Ok(family.frontend(1)));
        assert_eq!(client.peer_name(connected), Ok(family.frontend(1)));
    }
}

#[test]
fn a_socket_opened_before_the_policy_or_the_links_is_redirected() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-before");
    let late = Cgroup::new("udp-late");
    let (mut client, mut unhooked) = (world.client(), world.network.client(&late));
    let sockets = Family::ALL.map(|family| {
        let socket = client.open(family.udp());
        client.send_to(socket, family.frontend(1), "before").unwrap();
        assert_eq!(client.receive(socket), said("direct1 before", family.frontend(1)));
        let other = unhooked.open(family.udp());
        (family, socket, other)
    });
    world.plane.attach_pod(&late);
    for (family, socket, other) in sockets {
        let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        client.send_to(socket, family.frontend(1), "now").unwrap();
        assert_eq!(client.receive(socket), said("backend1 now", family.frontend(1)), "{family:?}");
        unhooked.send_to(other, family.frontend(1), "now").unwrap();
        assert_eq!(unhooked.receive(other), said("backend1 now", family.frontend(1)), "{family:?}");
        // A reply that is under way when the policy goes still has the right name.
        client.send_to(socket, family.frontend(1), "last").unwrap();
        world.plane.tables.remove(&key).unwrap();
        assert_eq!(client.receive(socket), said("backend1 last", family.frontend(1)), "{family:?}");
        client.send_to(socket, family.frontend(1), "after").unwrap();
        assert_eq!(client.receive(socket), said("direct1 after", family.frontend(1)), "{family:?}");
    }
}

#[test]
fn a_connected_socket_that_names_its_frontend_again_stays_with_its_backend() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-own");
    let mut client = world.client();
    for family in Family::ALL {
        let all = [1, 2, 3, 4].map(|number| family.backend(number));
        let limited = Layer { qos_limit: std::num::NonZeroU32::new(1_000_000), ..layer(1, &all) };
        let key = world.plane.publish(Protocol::Udp, family.frontend(1), alone(limited));
        let socket = client.open(family.udp());
        client.connect(socket, family.frontend(1)).unwrap();
        client.send(socket, "a").unwrap();
        let server = client.receive(socket).unwrap().data.replace(" a", "");
        let counted = world.plane.redirected(key);
        let ask = |client: &mut Client, what: &str| {
            client.send_to(socket, family.frontend(1), what).unwrap();
            let heard = client.receive(socket).unwrap();
            assert_eq!(heard, Message { data: format!("{server} {what}"), from: Some(family.frontend(1)) });
        };
        // Of four backends, thirty picks in a row would hit the same with 4^-30.
        for _ in 0..30 {
            ask(&mut client, "b");
        }
        assert_eq!(world.plane.redirected(key), counted, "decided when it was connected");
        // Its backend has left the set: the connection is as it was.
        let left: Vec<_> = all.iter().filter(|b| !server.ends_with(&number_of(&all, **b))).copied().collect();
        world.plane.redirect(Protocol::Udp, family.frontend(1), &left);
        ask(&mut client, "c");
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)));
    }
}

/// The number in the name of a backend's server.
fn number_of(all: &[SocketAddr], backend: SocketAddr) -> String {
    all.iter().position(|known| *known == backend).map_or(String::new(), |at| (at + 1).to_string())
}

#[test]
fn what_a_connected_socket_sends_elsewhere_goes_there() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-elsewhere");
    let mut client = world.client();
    for family in Family::ALL {
        redirect_five(&mut world, family);
        let socket = client.open(family.udp());
        client.connect(socket, family.frontend(1)).unwrap();
        let own = SocketAddr::new(family.own(), client.sock_name(socket).unwrap().port());
        let datagrams = || world.network.servers.datagrams();
        // To another frontend: its backend gets it, whose answer the kernel does not let in, as without us.
        let before = datagrams();
        client.send_to(socket, family.frontend(2), "x").unwrap();
        wait_until(PATIENCE, || datagrams() == before + 1);
        let nothing = client.receive_by(Receive::RecvFrom, socket, Duration::from_millis(1));
        assert_eq!(nothing, Err(Errno::EAGAIN), "{family:?} {own}");
        // To the backend itself, and to another frontend with the same backend: the peer answers.
        client.send_to(socket, family.backend(1), "y").unwrap();
        assert_eq!(client.receive(socket).unwrap().data, "backend1 y", "{family:?}");
        client.send_to(socket, family.frontend(5), "z").unwrap();
        assert_eq!(client.receive(socket).unwrap().data, "backend1 z", "{family:?}");
        // The connection is as it was.
        client.send(socket, "a").unwrap();
        assert_eq!(client.receive(socket).unwrap().data, "backend1 a", "{family:?}");
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)), "{family:?}");
    }
}

#[test]
fn a_backend_that_is_dialled_itself_answers_under_its_own_name() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-direct");
    let mut client = world.client();
    for family in Family::ALL {
        redirect_five(&mut world, family);
        let socket = client.open(family.udp());
        for _ in 0..3 {
            for to in [family.frontend(1), family.backend(1), family.frontend(5), family.frontend(2)] {
                client.send_to(socket, to, "x").unwrap();
                let heard = client.receive(socket).unwrap();
                assert_eq!(heard.from, Some(to), "{family:?}: {}", heard.data);
            }
        }
    }
}

#[test]
fn a_frontend_that_stands_aside_answers_under_its_own_name() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-aside");
    let mut client = world.client();
    for family in Family::ALL {
        world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        // The backend's address is a frontend, too, without a backend of its own.
        world.plane.redirect(Protocol::Udp, family.backend(1), &[]);
        let socket = client.open(family.udp());
        for to in [family.frontend(1), family.backend(1), family.frontend(1)] {
            client.send_to(socket, to, "x").unwrap();
            assert_eq!(client.receive(socket), said("backend1 x", to), "{family:?}");
        }
    }
}

#[test]
fn what_was_sent_before_a_connection_names_nothing_that_is_heard_through_it() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("udp-outdated");
    let mut client = world.client();
    for family in Family::ALL {
        redirect_five(&mut world, family);
        let socket = client.open(family.udp());
        client.send_to(socket, family.frontend(5), "before").unwrap();
        assert_eq!(client.receive(socket), said("backend1 before", family.frontend(5)), "{family:?}");
        client.connect(socket, family.frontend(1)).unwrap();
        // Past the connection, which must not make the old translation good again.
        client.send_to(socket, family.frontend(2), "past").unwrap();
        client.send(socket, "through").unwrap();
        assert_eq!(client.receive(socket), said("backend1 through", family.frontend(1)), "{family:?}");
    }
}
