//! What is left of a name when its record or its frontend is gone: the truth, never another's name.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use balancing_dataplane::loader::{HostScope, Sizes};
use balancing_tests::{
    dataplane::{DataPlane, Family, Protocol, SIZES, World, key},
    *,
};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn the_oldest_connections_show_their_backend_when_the_table_is_full() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("records");
    let mut client = world.client();
    let old: Vec<_> = Family::ALL
        .into_iter()
        .flat_map(|family| [(family, family.tcp()), (family, family.udp())])
        .map(|(family, kind)| (family, kind, client.open(kind)))
        .collect();
    for (family, kind, socket) in &old {
        let protocol = if *kind == family.tcp() { Protocol::Tcp } else { Protocol::Udp };
        world.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]);
        assert_eq!(client.connect(*socket, family.frontend(1)), Ok(()));
        assert_eq!(client.peer_name(*socket), Ok(family.frontend(1)));
    }
    // Others with the same backend, so that a wrong name would be believed.
    for family in [Family::V4, Family::V6] {
        world.plane.redirect(Protocol::Udp, family.frontend(2), &[family.backend(1)]);
    }
    let mut young = world.client();
    young.start_churn(&Churn {
        exchange: Exchange::ConnectOnly,
        ..Churn::to(Kind::Udp4, Family::V4.frontend(2))
    });
    young_and_old(&mut client, &old);
    let reader = world.plane.reader();
    let table = || reader.usage().unwrap().into_iter().find(|usage| usage.name == "connections").unwrap();
    // Other sockets of the machine take cookies, too, and CPUs take them in batches: some places wait for their first.
    wait_until(DEADLINE, || table().used > 32_768);
    young.stop_churn();
    let table = table();
    assert_eq!(table.capacity, 65_536);
    assert!(table.used <= 65_536, "{table:?}");
    assert!(reader.overwritten().unwrap() >= old.len() as u64);
    // The newest have their names.
    for family in Family::ALL {
        let socket = client.open(family.udp());
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)));
    }
    // The old ones work on.
    let (family, _, socket) = &old[0];
    assert_eq!(client.receive(*socket).unwrap().data, "backend1\n", "{family:?}");
}

/// Looks at the old sockets until all have lost their names: at no time has one a third name.
fn young_and_old(client: &mut Client, old: &[(Family, Kind, Socket)]) {
    wait_until(DEADLINE, || {
        old.iter().all(|(family, kind, socket)| {
            let name = client.peer_name(*socket);
            let (dialled, real) = (Ok(family.frontend(1)), Ok(family.backend(1)));
            assert!(name == dialled || name == real, "{family:?} {kind:?}: {name:?}");
            name == real
        })
    });
}

#[test]
fn the_id_of_a_frontend_that_is_gone_never_names_another() {
    if !require_kernel() {
        return;
    }
    // Few ids, so that they are given away again soon.
    let sizes = Sizes { frontends: 16, ids: 16, backends: 16, ..SIZES };
    let mut world = World::on(DataPlane::with("records-ids", sizes, HostScope::Everything), "records-ids");
    let mut client = world.client();
    for family in Family::ALL {
        let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        let (connected, unconnected) = (client.open(family.udp()), client.open(family.udp()));
        assert_eq!(client.connect(connected, family.frontend(1)), Ok(()));
        client.send_to(unconnected, family.frontend(1), "x").unwrap();
        assert_eq!(client.receive(unconnected).unwrap().from, Some(family.frontend(1)));
        world.plane.tables.remove(&key).unwrap();
        for round in 0..100_u16 {
            let other = std::net::SocketAddr::new(family.frontend(2).ip(), 5000 + round);
            let key = world.plane.redirect(Protocol::Udp, other, &[family.backend(1)]);
            let name = client.peer_name(connected);
            let allowed = [Ok(family.frontend(1)), Ok(family.backend(1))];
            assert!(allowed.contains(&name), "{family:?} round {round}: {name:?}");
            world.plane.tables.remove(&key).unwrap();
        }
        assert_eq!(client.peer_name(connected), Ok(family.backend(1)), "{family:?}: its id was used again");
        // The socket knows the address itself where it is not connected.
        client.send_to(unconnected, family.backend(1), "y").unwrap();
        let heard = client.receive(unconnected).unwrap();
        assert_eq!(heard.data, "backend1 y");
        assert!([family.frontend(1), family.backend(1)].map(Some).contains(&heard.from), "{heard:?}");
    }
}

/// Asks for names on many sockets at a time, again and again. Returns every name that was told; the churn has several rounds.
fn told(client: &mut Client) -> BTreeSet<SocketAddr> {
    let report = client.end_churn();
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    let names = report.peers.keys().flat_map(|names| names.split(' '));
    names.map(|name| name.parse().expect("an address")).collect()
}

fn asking(kind: Kind, to: SocketAddr, exchange: Exchange, rounds: u64) -> Churn {
    Churn { exchange, threads: 2, rounds: Some(rounds), failures: Some(1), ..Churn::to(kind, to) }
}

/// Removes frontends and adds others with the same backend, so that all ids pass on, also those of the clients' frontends.
fn pass_ids_on(world: &mut World, passed_on: &AtomicU64, stop: &AtomicBool) {
    let kinds = [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| [Family::V4, Family::V6].map(|family| (protocol, family)));
    for number in (1..=4).cycle() {
        for (protocol, family) in kinds.into_iter().flatten() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            world.plane.tables.remove(&key(protocol, family.frontend(number))).expect("a removal");
            let other = family.frontend(1 + (number + 1) % 4);
            world.plane.redirect(protocol, other, &[family.backend(1)]);
            passed_on.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn names_hold_while_ids_pass_on_at_full_speed() {
    if !require_kernel() {
        return;
    }
    // As few ids as there are frontends at one time.
    let sizes = Sizes { frontends: 16, ids: 16, backends: 16, ..SIZES };
    let mut world = World::on(DataPlane::with("records-fast", sizes, HostScope::Everything), "records-fast");
    let exchange = Exchange::Names { sockets: 4, times: 50 };
    let kinds = Family::ALL.into_iter().flat_map(|family| [(family, family.tcp()), (family, family.udp())]);
    let mut clients: Vec<_> = kinds
        .zip([1, 2, 3, 4, 1, 2])
        .map(|((family, kind), number)| (world.client(), family, kind, number))
        .collect();
    let passed_on = AtomicU64::new(0);
    // Clients that were told both names: an id has passed on while they asked.
    let mut told_both = 0;
    let connect = || {
        let started = Instant::now();
        while told_both < 10 || passed_on.load(Ordering::Relaxed) < 1000 {
            assert!(started.elapsed() < 10 * DEADLINE, "{passed_on:?} ids passed on, seen {told_both} times");
            for (client, family, kind, number) in &mut clients {
                client.start_churn(&asking(*kind, family.frontend(*number), exchange, 20));
            }
            for (client, family, kind, number) in &mut clients {
                let names = told(client);
                assert_names(&names, *family, *kind, *number);
                told_both += usize::from(names.len() == 2);
            }
        }
    };
    beside(|stop| pass_ids_on(&mut world, &passed_on, stop), connect);
    eprintln!("{passed_on:?} ids passed on, seen {told_both} times");
}

/// Names are the dialled one or the real peer's.
#[track_caller]
fn assert_names(names: &BTreeSet<SocketAddr>, family: Family, kind: Kind, number: u8) {
    let right = [family.frontend(number), family.backend(1)];
    assert!(names.iter().all(|name| right.contains(name)), "{kind:?} {number}: {names:?}");
}

#[test]
fn names_hold_while_others_take_the_places_of_records() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("records-places");
    for family in [Family::V4, Family::V6] {
        for number in 1..=8 {
            // One backend, so that a wrong name would be believed.
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                world.plane.redirect(protocol, family.frontend(number), &[family.backend(1)]);
            }
        }
    }
    let mut others: Vec<_> = (0..4).map(|_| world.client()).collect();
    for (number, client) in (5..).zip(&mut others) {
        let to = if number % 2 == 0 { Family::V6 } else { Family::V4 }.frontend(number);
        client.start_churn(&Churn { exchange: Exchange::ConnectOnly, ..Churn::to(Kind::udp(to), to) });
    }
    let exchange = Exchange::Names { sockets: 100, times: 100 };
    let asked = [
        (Family::V4, Kind::Tcp4),
        (Family::V4, Kind::Udp4),
        (Family::V6, Kind::Udp6),
        (Family::Mapped, Kind::Udp6),
    ];
    let mut clients: Vec<_> =
        asked.iter().zip(1..).map(|(asked, number)| (world.client(), *asked, number)).collect();
    // How often a record was overwritten while its socket was asked.
    let mut overwritten = 0;
    wait_until(10 * DEADLINE, || {
        for (client, (family, kind), number) in &mut clients {
            client.start_churn(&asking(*kind, family.frontend(*number), exchange, 5));
        }
        for (client, (family, kind), number) in &mut clients {
            let names = told(client);
            assert_names(&names, *family, *kind, *number);
            overwritten += usize::from(names.contains(&family.backend(1)));
        }
        overwritten >= 5
    });
    let failed = others.iter_mut().any(|client| !client.stop_churn().errors.is_empty());
    assert!(!failed);
}

#[test]
fn what_was_redirected_keeps_its_name_when_nothing_is_redirected_any_more() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("records-removal");
    let mut client = world.client();
    let mut asked = Vec::new();
    for family in Family::ALL {
        for kind in [family.tcp(), family.udp()] {
            let protocol = if kind == family.tcp() { Protocol::Tcp } else { Protocol::Udp };
            world.plane.redirect(protocol, family.frontend(1), &[family.backend(1)]);
            let socket = client.open(kind);
            assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
            asked.push((family, kind, socket));
        }
    }
    let unconnected = Family::ALL.map(|family| {
        let socket = client.open(family.udp());
        assert_eq!(client.send_to(socket, family.frontend(1), "question"), Ok(()));
        (family, socket)
    });
    world.plane.stop();
    for (family, kind, socket) in asked {
        assert_eq!(client.peer_name(socket), Ok(family.frontend(1)), "{family:?} {kind:?}");
        let socket = client.open(kind);
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        if kind == family.udp() {
            assert_eq!(client.send(socket, "question"), Ok(()));
        }
        let answer = client.receive(socket).unwrap();
        assert!(answer.data.starts_with("direct1"), "{family:?} {kind:?}: {answer:?}");
    }
    for (family, socket) in unconnected {
        let answer = client.receive(socket).unwrap();
        assert!(answer.data.starts_with("backend1"), "{family:?}: {answer:?}");
        assert_eq!(answer.from, Some(family.frontend(1)), "{family:?}");
        // What dials the backend itself hears its own name.
        assert_eq!(client.send_to(socket, family.backend(1), "again"), Ok(()));
        assert_eq!(client.receive(socket).unwrap().from, Some(family.backend(1)), "{family:?}");
    }
    assert!(world.plane.reader().is_stopped());
    // Agents that start then: one that ends before it knows what is wanted, and the next, before and after it does.
    for _ in 0..2 {
        world.plane.take_over();
        assert!(world.plane.reader().is_stopped());
    }
    for server in ["direct1", "direct1", "backend1"] {
        for family in Family::ALL {
            if server == "backend1" {
                world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
            }
            let socket = client.open(family.udp());
            assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
            assert_eq!(client.peer_name(socket), Ok(family.frontend(1)), "{family:?}");
            assert_eq!(client.send(socket, "question"), Ok(()));
            assert!(client.receive(socket).unwrap().data.starts_with(server), "{family:?}");
        }
        // What was in force before does not come back by that.
        world.plane.resume();
        assert!(!world.plane.reader().is_stopped());
    }
}

#[test]
fn threads_that_share_a_socket_hear_the_names_that_they_dialled() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("records-shared");
    let mut client = world.client();
    for family in Family::ALL {
        // Each its own backend, then two with the same.
        for (backends, numbers) in [([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 2, 1, 2], [1, 2, 3, 4])] {
            for (number, backend) in numbers.into_iter().zip(backends) {
                world.plane.redirect(Protocol::Udp, family.frontend(number), &[family.backend(backend)]);
            }
            let to = numbers.map(|number| family.frontend(number)).to_vec();
            let work = Shared { kind: family.udp(), to, sockets: 100, datagrams: 50 };
            let heard = client.share(&work).unwrap();
            for (Heard { name, from }, _) in &heard {
                let right = numbers.into_iter().zip(backends).any(|(number, backend)| {
                    *from == Some(family.frontend(number)) && *name == format!("backend{backend}")
                });
                assert!(right, "{family:?}: {name} from {from:?} among {heard:?}");
            }
            assert_eq!(heard.iter().map(|(_, count)| count).sum::<u64>(), 4 * 100 * 50);
        }
    }
}

#[test]
fn threads_that_share_a_socket_hear_one_name_when_they_dial_one_frontend() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("records-shared-one");
    let mut client = world.client();
    for family in Family::ALL {
        let to = family.frontend(1);
        let set = [1, 2, 3, 4].map(|number| family.backend(number));
        world.plane.redirect(Protocol::Udp, to, &set);
        // The first datagrams meet: each draws a backend, and the second one takes that of the first.
        let work = Shared { kind: family.udp(), to: vec![to; 2], sockets: 500, datagrams: 2 };
        let heard = client.share(&work).unwrap();
        let right =
            heard.iter().all(|(Heard { name, from }, _)| *from == Some(to) && name.starts_with("backend"));
        assert!(right, "{family:?}: {heard:?}");
    }
    let errors = world.plane.reader().hook_errors().unwrap();
    assert!(errors.iter().all(|(_, errors)| *errors == 0), "{errors:?}");
}

/// References tell 4,095 uses of an id from each other. Spare ids keep one from being used so often.
#[test]
fn an_id_is_not_used_again_while_others_wait_for_longer() {
    if !require_kernel() {
        return;
    }
    let sizes = Sizes { frontends: 1, ids: Sizes::ids(1), backends: 16, ..SIZES };
    let mut world = World::on(DataPlane::with("records-wrap", sizes, HostScope::Everything), "records-wrap");
    let mut client = world.client();
    let family = Family::V4;
    let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
    let socket = client.open(family.udp());
    assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
    world.plane.tables.remove(&key).unwrap();
    let mut lost = 0;
    // Twice as many frontends as there are ids.
    for used in 0..2 * sizes.ids {
        let key = world.plane.redirect(Protocol::Udp, family.frontend(2), &[family.backend(1)]);
        world.plane.tables.remove(&key).unwrap();
        if used % 64 == 0 {
            let name = client.peer_name(socket);
            assert!(name == Ok(family.frontend(1)) || name == Ok(family.backend(1)), "use {used}: {name:?}");
            lost += u32::from(name == Ok(family.backend(1)));
            assert!(lost == 0 || used + 1 >= sizes.ids - 64, "its id was given away after {used} others");
        }
    }
    assert!(lost > 0, "its id was never given away");
}

#[test]
fn an_id_of_before_a_take_over_never_names_another() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("records-takeover");
    let mut client = world.client();
    for family in Family::ALL {
        // Nothing is in force, so that the next agent knows of no id but by the names.
        let key = world.plane.redirect(Protocol::Udp, family.frontend(1), &[family.backend(1)]);
        let socket = client.open(family.udp());
        assert_eq!(client.connect(socket, family.frontend(1)), Ok(()));
        world.plane.tables.remove(&key).unwrap();
        world.plane.take_over();
        let other = world.plane.redirect(Protocol::Udp, family.frontend(2), &[family.backend(1)]);
        let name = client.peer_name(socket);
        assert!(name == Ok(family.frontend(1)) || name == Ok(family.backend(1)), "{family:?}: {name:?}");
        world.plane.tables.remove(&other).unwrap();
    }
}
