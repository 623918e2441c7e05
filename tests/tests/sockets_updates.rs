//! Changes at full speed: no connection sees half of one.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use balancing_dataplane::{
    loader::{HostScope, Sizes},
    model::ClientId,
    sys,
};
use balancing_tests::{
    dataplane::{DataPlane, Family, Layer, Protocol, SIZES, World, above, alone, key, layer},
    history::{History, State, state},
    *,
};

/// Far above what so many changes and connections take anywhere.
const DEADLINE: Duration = Duration::from_secs(600);
/// Rounds of a thread at one go; then it is looked whether enough was changed meanwhile.
const ROUNDS: u64 = 4000;

fn ten(family: Family) -> Vec<(String, SocketAddr)> {
    let port = |i: u16| SocketAddr::new(family.backend(1).ip().to_canonical(), 2100 + i);
    (0..10).map(|i| (format!("ten{i}"), port(i))).collect()
}

/// States that all redirect, each to other servers: sets of 1, 2 and 10, and second layers behind a first without
/// a backend, and behind one that skips the client.
fn states(world: &World, family: Family) -> Vec<State> {
    let cookie = world.network.netns.run(|| sys::netns_cookie().expect("a cookie"));
    let (ten_names, ten): (Vec<_>, Vec<_>) = ten(family).into_iter().unzip();
    let skipping = Layer { skip: [ClientId::NetnsCookie(cookie)].into(), ..layer(1, &ten) };
    let second = |number| layer(2, &[family.backend(number)]);
    let two = [family.backend(2), family.backend(4)];
    vec![
        state(alone(layer(1, &[family.backend(1)])), ["backend1"]),
        state(above(layer(1, &[]), second(3)), ["backend3"]),
        state(alone(layer(1, &ten)), ten_names),
        state(above(skipping, second(4)), ["backend4"]),
        state(alone(layer(1, &two)), ["backend2", "backend4"]),
    ]
}

/// A data plane whose tables are nearly full, so that elements have neighbours in their buckets.
fn crowded(topic: &str) -> World {
    let sizes = Sizes { frontends: 8192, ids: 8192, backends: 4096, ..SIZES };
    let mut world = World::on(DataPlane::with(topic, sizes, HostScope::Everything), topic);
    for i in 0..7000_u32 {
        let address = SocketAddr::from((Ipv4Addr::from(0x0a40_0000 + i), 53));
        world.plane.redirect(Protocol::Udp, address, &[Family::V4.backend(4)]);
    }
    world
}

/// Publishes the states one after the other until told to stop; `between` waits between two of them.
fn alternate(history: &mut History, plane: &mut DataPlane, stop: &AtomicBool, mut between: impl FnMut()) {
    // Every order of two neighbours occurs.
    let order = [0, 1, 2, 3, 4, 0, 2, 4, 1, 3, 0, 3, 1, 4, 2, 0, 4, 3, 2, 1];
    for state in order.into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        history.publish(plane, state);
        between();
    }
}

fn storm(topic: &str, family: Family, protocol: Protocol, exchange: Exchange) {
    let mut world = crowded(topic);
    let _ten = EchoServer::start_named(&world.network.netns, &ten(family));
    let (to, states) = (family.frontend(1), states(&world, family));
    let mut history = History::begin(&mut world.plane, protocol, to, states);
    let mut client = world.client();
    let churn = Churn {
        exchange,
        threads: 3,
        rounds: Some(ROUNDS),
        samples: true,
        failures: Some(10),
        ..Churn::to(family.kind(protocol), to)
    };
    let changed = AtomicU64::new(0);
    let ((), reports) = beside(
        |stop| {
            alternate(&mut history, &mut world.plane, stop, || {
                changed.fetch_add(1, Ordering::Relaxed);
            });
        },
        || {
            let started = Instant::now();
            let mut reports = vec![client.churn(&churn)];
            while changed.load(Ordering::Relaxed) <= 200 && reports.iter().all(|r| r.errors.is_empty()) {
                assert!(started.elapsed() < DEADLINE, "{changed:?} changes");
                reports.push(client.churn(&churn));
            }
            reports
        },
    );
    let successes: u64 = reports.iter().map(ChurnReport::successes).sum();
    eprintln!("{family:?} {protocol:?} {exchange:?}: {} changes, {successes} connections", history.changes());
    reports.iter().for_each(|report| history.judge(report));
    assert!(world.plane.tables.entries().contains_key(&key(protocol, to)));
}

#[test]
fn connected_udp_sees_no_half_change() {
    if require_kernel() {
        storm("updates-udp4", Family::V4, Protocol::Udp, Exchange::Connected);
        storm("updates-udp6", Family::V6, Protocol::Udp, Exchange::Connected);
    }
}

#[test]
fn unconnected_udp_sees_no_half_change() {
    if require_kernel() {
        storm("updates-sendto", Family::Mapped, Protocol::Udp, Exchange::Unconnected);
        storm("updates-sendto6", Family::V6, Protocol::Udp, Exchange::Unconnected);
    }
}

#[test]
fn tcp_sees_no_half_change() {
    if require_kernel() {
        storm("updates-tcp4", Family::V4, Protocol::Tcp, Exchange::Connected);
        storm("updates-tcp6", Family::Mapped, Protocol::Tcp, Exchange::Connected);
    }
}

#[test]
fn between_slow_changes_the_old_state_ends_when_the_new_one_is_there() {
    if !require_kernel() {
        return;
    }
    let family = Family::V4;
    let mut world = crowded("updates-slow");
    let _ten = EchoServer::start_named(&world.network.netns, &ten(family));
    let to = family.frontend(1);
    let states = states(&world, family);
    let mut history = History::begin(&mut world.plane, Protocol::Udp, to, states);
    let mut client = world.client();
    let counted = key(Protocol::Udp, to);
    let stop = AtomicBool::new(false);
    client.start_churn(&Churn { samples: true, ..Churn::to(Kind::Udp4, to) });
    let reader = world.plane.reader();
    let redirected = || {
        let layers = reader.layers().expect("the tables");
        layers.iter().filter(|view| view.key == counted).map(|view| view.counters.redirected).sum::<u64>()
    };
    let mut rounds = 0;
    alternate(&mut history, &mut world.plane, &stop, || {
        // Some connections in each state. Counters may start again with a second layer's new id, hence unequal.
        let before = redirected();
        wait_until(DEADLINE, || redirected().abs_diff(before) >= 3);
        rounds += 1;
        stop.store(rounds == 60, Ordering::Relaxed);
    });
    history.judge(&client.stop_churn());
    assert_eq!(history.changes(), 60);
}

/// Neighbours of a frontend that comes, changes and goes until told to stop.
fn restless_neighbours(plane: &mut DataPlane, restless: SocketAddr, changes: &AtomicU64, stop: &AtomicBool) {
    let family = Family::V4;
    let restless_sets = [vec![family.backend(2)], vec![family.backend(2), family.backend(3)]];
    // Neither a server's answer nor a frontend of the clients': who gets there was misdirected.
    let strangers = [family.backend(4), family.frontend(8), family.frontend(7)];
    while !stop.load(Ordering::Relaxed) {
        let round = changes.load(Ordering::Relaxed) / 600;
        for i in 0..300_u32 {
            let address = SocketAddr::from((Ipv4Addr::from(0x0a40_0000 + i), 53));
            let gone = |address| key(Protocol::Udp, address);
            match (round + u64::from(i)) % 3 {
                0 => drop(plane.redirect(Protocol::Udp, address, &strangers[..1])),
                1 => drop(plane.redirect(Protocol::Udp, address, &strangers)),
                _ => plane.tables.remove(&gone(address)).expect("remove a frontend"),
            }
            match i % 3 {
                2 => plane.tables.remove(&gone(restless)).expect("remove a frontend"),
                set => drop(plane.redirect(Protocol::Udp, restless, &restless_sets[set as usize])),
            }
            changes.fetch_add(2, Ordering::Relaxed);
        }
    }
}

#[test]
fn neighbours_that_come_and_go_never_touch_a_stable_frontend() {
    if !require_kernel() {
        return;
    }
    // Few ids and slots, so that they are used again all the time.
    let sizes = Sizes { frontends: 1024, ids: 1024, backends: 1024, ..SIZES };
    let mut world = World::on(DataPlane::with("updates-many", sizes, HostScope::Everything), "updates-many");
    let family = Family::V4;
    let (stable, restless) = (family.frontend(1), family.frontend(2));
    world.plane.redirect(Protocol::Udp, stable, &[family.backend(1)]);
    let mut clients = [(world.client(), stable), (world.client(), restless)];
    let changes = AtomicU64::new(0);
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    let expected: [&[&str]; 2] = [&["backend1"], &["backend2", "backend3", "direct2"]];
    let connect = || {
        let started = Instant::now();
        // Until enough was changed and every state of the restless one was met.
        while changes.load(Ordering::Relaxed) <= 1000 || seen[1].len() < expected[1].len() {
            assert!(started.elapsed() < DEADLINE, "{changes:?} changes, {seen:?}");
            for (client, to) in &mut clients {
                let (rounds, failures) = (Some(ROUNDS), Some(10));
                client.start_churn(&Churn { threads: 2, rounds, failures, ..Churn::to(Kind::Udp4, *to) });
            }
            for ((client, _), seen) in clients.iter_mut().zip(&mut seen) {
                let report = client.end_churn();
                assert_eq!(report.errors.len(), 0, "{:?} after {changes:?} changes", report.errors);
                seen.extend(report.peers.into_keys());
            }
        }
    };
    beside(|stop| restless_neighbours(&mut world.plane, restless, &changes, stop), connect);
    assert_eq!(seen.map(|names| names.into_iter().collect::<Vec<_>>()), expected);
}
