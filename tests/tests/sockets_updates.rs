//! Changes at full speed: no connection sees half of one.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use balancing_dataplane::{
    loader::{HostScope, Sizes},
    model::ClientId,
    sys,
};
use balancing_tests::{
    dataplane::{DataPlane, Entry, Family, Layer, Protocol, SIZES, World, above, alone, key, layer},
    *,
};

/// How long changes and connections run against each other.
const STORM: Duration = Duration::from_secs(3);

/// One state of a frontend and the servers that it leads to.
struct Variant {
    entry: Entry,
    names: Vec<String>,
}

/// A publication: when it began and ended, and what was published.
type Published = (u64, u64, usize);

fn ten(family: Family) -> Vec<(String, SocketAddr)> {
    let port = |i: u16| SocketAddr::new(family.backend(1).ip().to_canonical(), 2100 + i);
    (0..10).map(|i| (format!("ten{i}"), port(i))).collect()
}

/// States that all redirect, each to other servers: sets of 1, 2 and 10, and second layers behind a first without
/// a backend, and behind one that skips the client.
fn variants(world: &World, family: Family) -> Vec<Variant> {
    let cookie = world.network.netns.run(|| sys::netns_cookie().expect("a cookie"));
    let ten = ten(family);
    let addresses: Vec<_> = ten.iter().map(|(_, address)| *address).collect();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let skipping = Layer { skip: [ClientId::NetnsCookie(cookie)].into(), ..layer(1, &addresses) };
    let second = |number| layer(2, &[family.backend(number)]);
    vec![
        Variant { entry: alone(layer(1, &[family.backend(1)])), names: names(&["backend1"]) },
        Variant { entry: above(layer(1, &[]), second(3)), names: names(&["backend3"]) },
        Variant {
            entry: alone(layer(1, &addresses)),
            names: ten.into_iter().map(|(name, _)| name).collect(),
        },
        Variant { entry: above(skipping, second(4)), names: names(&["backend4"]) },
        Variant {
            entry: alone(layer(1, &[family.backend(2), family.backend(4)])),
            names: names(&["backend2", "backend4"]),
        },
    ]
}

/// A data plane whose tables are nearly full, so that elements have neighbours in their buckets.
fn crowded(topic: &str) -> World {
    let sizes = Sizes { frontends: 8192, backends: 4096, ..SIZES };
    let mut world = World::on(DataPlane::with(topic, sizes, HostScope::Everything), topic);
    for i in 0..7000_u32 {
        let address = SocketAddr::from((Ipv4Addr::from(0x0a40_0000 + i), 53));
        world.plane.redirect(Protocol::Udp, address, &[Family::V4.backend(4)]);
    }
    world
}

/// Every sample reached a server of a state that was published at some time while the sample was taken.
#[track_caller]
fn assert_of_their_time(report: &ChurnReport, log: &[Published], variants: &[Variant]) {
    for sample in &report.samples {
        let name = sample.outcome.as_ref().expect("only successes");
        // A state is there from the beginning of its publication to the end of the next one.
        let from = log.partition_point(|(_, ended, _)| *ended < sample.began_ns).saturating_sub(1);
        let states = log[from..].iter().take_while(|(began, ..)| *began <= sample.ended_ns);
        let mut allowed = states.map(|(.., index)| &variants[*index]);
        assert!(allowed.any(|variant| variant.names.contains(name)), "{name} at {sample:?}");
    }
}

/// Publishes the variants one after the other until told to stop; `between` waits between two of them.
fn alternate(
    world: &mut World,
    protocol: Protocol,
    to: SocketAddr,
    variants: &[Variant],
    stop: &AtomicBool,
    mut between: impl FnMut(),
) -> Vec<Published> {
    let mut log = vec![];
    // Every order of two neighbours occurs.
    let order = [0, 1, 2, 3, 4, 0, 2, 4, 1, 3, 0, 3, 1, 4, 2, 0, 4, 3, 2, 1];
    for index in order.into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = monotonic_ns();
        world.plane.publish(protocol, to, variants[index].entry.clone());
        log.push((began, monotonic_ns(), index));
        between();
    }
    log
}

fn storm(topic: &str, family: Family, protocol: Protocol, exchange: Exchange) {
    let mut world = crowded(topic);
    let _ten = EchoServer::start_named(&world.network.netns, &ten(family));
    let variants = variants(&world, family);
    let to = family.frontend(1);
    let key = world.plane.publish(protocol, to, variants[0].entry.clone());
    let mut client = world.client();
    let churn = Churn { exchange, threads: 3, samples: true, ..Churn::to(family.kind(protocol), to) };
    let stop = AtomicBool::new(false);
    let (report, log) = thread::scope(|scope| {
        client.start_churn(&churn);
        let writer = scope.spawn(|| alternate(&mut world, protocol, to, &variants, &stop, || {}));
        let until = monotonic_ns() + STORM.as_nanos() as u64;
        wait_until(2 * STORM, || monotonic_ns() >= until || writer.is_finished());
        let report = client.stop_churn();
        stop.store(true, Ordering::Relaxed);
        (report, writer.join().expect("the writer"))
    });
    eprintln!(
        "{family:?} {protocol:?} {exchange:?}: {} updates, {} connections",
        log.len(),
        report.successes()
    );
    for sample in report.samples.iter().filter(|s| s.outcome.is_err()) {
        let near: Vec<_> = log
            .iter()
            .filter(|(b, e, _)| *e + 300_000 > sample.began_ns && *b < sample.began_ns + 300_000)
            .map(|(b, e, i)| (*b as i64 - sample.began_ns as i64, *e as i64 - sample.began_ns as i64, *i))
            .collect();
        eprintln!("{sample:?} took {} near {near:?}", sample.ended_ns - sample.began_ns);
        let snmp = world.network.netns.run(|| {
            std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap()
                + &std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap()
        });
        eprintln!(
            "{}",
            snmp.lines()
                .filter(|l| l.contains("Udp") || l.contains("Icmp:") || l.contains("Icmp6In"))
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert!(
        report.peers.keys().all(|name| variants.iter().any(|v| v.names.contains(name))),
        "{:?}",
        report.peers
    );
    assert!(log.len() > 200 && report.successes() > 1000, "{} updates, {:?}", log.len(), report.peers);
    let first = (0, log[0].1, 0);
    let log: Vec<_> = [first].into_iter().chain(log).collect();
    assert_of_their_time(&report, &log, &variants);
    assert!(world.plane.tables.entries().contains_key(&key));
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
    let variants = variants(&world, family);
    let to = family.frontend(1);
    world.plane.publish(Protocol::Udp, to, variants[0].entry.clone());
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
    let log = alternate(&mut world, Protocol::Udp, to, &variants, &stop, || {
        // Some connections in each state. Counters may start again with a second layer's new id, hence unequal.
        let before = redirected();
        wait_until(Duration::from_secs(5), || redirected().abs_diff(before) >= 3);
        rounds += 1;
        stop.store(rounds == 60, Ordering::Relaxed);
    });
    let report = client.stop_churn();
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    let first = (0, log[0].1, 0);
    let log: Vec<_> = [first].into_iter().chain(log).collect();
    assert_of_their_time(&report, &log, &variants);
    assert_eq!(log.len(), 61);
}

#[test]
fn neighbours_that_come_and_go_never_touch_a_stable_frontend() {
    if !require_kernel() {
        return;
    }
    // Few ids and slots, so that they are used again all the time.
    let sizes = Sizes { frontends: 1024, backends: 1024, ..SIZES };
    let mut world = World::on(DataPlane::with("updates-many", sizes, HostScope::Everything), "updates-many");
    let family = Family::V4;
    let (stable, restless) = (family.frontend(1), family.frontend(2));
    world.plane.redirect(Protocol::Udp, stable, &[family.backend(1)]);
    let restless_sets = [vec![family.backend(2)], vec![family.backend(2), family.backend(3)]];
    let mut clients = [world.client(), world.client()];
    let stop = AtomicBool::new(false);
    let (reports, operations) = thread::scope(|scope| {
        for (client, to) in clients.iter_mut().zip([stable, restless]) {
            client.start_churn(&Churn { threads: 2, ..Churn::to(Kind::Udp4, to) });
        }
        let writer = scope.spawn(|| {
            let mut operations = 0_u64;
            // Neither a server's answer nor a frontend of the clients': who gets there was misdirected.
            let strangers = [family.backend(4), family.frontend(8), family.frontend(7)];
            while !stop.load(Ordering::Relaxed) {
                for i in 0..300_u32 {
                    let address = SocketAddr::from((Ipv4Addr::from(0x0a40_0000 + i), 53));
                    let stranger = key(Protocol::Udp, address);
                    match (operations / 300 + u64::from(i)) % 3 {
                        0 => drop(world.plane.redirect(Protocol::Udp, address, &strangers[..1])),
                        1 => drop(world.plane.redirect(Protocol::Udp, address, &strangers)),
                        _ => world.plane.tables.remove(&stranger).expect("remove a frontend"),
                    }
                    match i % 3 {
                        0 => drop(world.plane.redirect(Protocol::Udp, restless, &restless_sets[0])),
                        1 => drop(world.plane.redirect(Protocol::Udp, restless, &restless_sets[1])),
                        _ => world
                            .plane
                            .tables
                            .remove(&key(Protocol::Udp, restless))
                            .expect("remove a frontend"),
                    }
                    operations += 2;
                }
            }
            operations
        });
        let until = monotonic_ns() + STORM.as_nanos() as u64;
        wait_until(2 * STORM, || monotonic_ns() >= until || writer.is_finished());
        let reports = clients.each_mut().map(Client::stop_churn);
        stop.store(true, Ordering::Relaxed);
        (reports, writer.join().expect("the writer"))
    });
    eprintln!(
        "{operations} operations, {} and {} connections",
        reports[0].successes(),
        reports[1].successes()
    );
    for report in &reports {
        assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
        assert!(report.successes() > 1000);
    }
    assert_eq!(reports[0].peers.keys().collect::<Vec<_>>(), ["backend1"]);
    assert_eq!(reports[1].peers.keys().collect::<Vec<_>>(), ["backend2", "backend3", "direct2"]);
    assert!(operations > 1000, "{operations} operations");
}
