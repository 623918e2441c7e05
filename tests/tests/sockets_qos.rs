//! The QoS limit: so many redirections in each second of the kernel's monotonic clock, and never one more.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use balancing_tests::{
    dataplane::{Family, Layer, Protocol, World, above, alone, layer, weighted},
    *,
};

const SECOND: u64 = 1_000_000_000;
const LIMIT: u64 = 100;
/// Whole seconds that are looked at.
const WINDOWS: u64 = 5;

fn limited(family: Family, service_id: u32) -> Layer {
    Layer { qos_limit: NonZeroU32::new(LIMIT as u32), ..layer(service_id, &[family.backend(1)]) }
}

/// Redirections in all windows that are looked at.
const TOTAL: u64 = LIMIT * (WINDOWS + 1);

/// Waits for the next second, in which nothing has been granted yet, and returns its number.
fn next_second() -> u64 {
    let before = monotonic_ns() / SECOND;
    wait_until(Duration::from_secs(60), || monotonic_ns() / SECOND > before);
    monotonic_ns() / SECOND
}

/// A churn of 8 threads that ends in the middle of the last window.
fn storm(kind: Kind, to: std::net::SocketAddr) -> Churn {
    let duration = Some(Duration::from_millis(1000 * WINDOWS + 500));
    Churn { threads: 8, duration, samples: true, ..Churn::to(kind, to) }
}

/// Whether calls filled each of the `WINDOWS` + 1 windows from `first` on, whatever became of them, and all were over
/// with the last one. Otherwise the machine stood still for a part of a second, and grants tell nothing.
fn fills_windows(report: &ChurnReport, first: u64) -> bool {
    let mut calls = BTreeMap::<u64, u64>::new();
    for sample in &report.samples {
        let (began, ended) = (sample.began_ns / SECOND, sample.ended_ns / SECOND);
        if ended > first + WINDOWS || ended - began > 1 {
            return false;
        }
        *calls.entry(began).or_default() += u64::from(began == ended);
    }
    (first..=first + WINDOWS).all(|second| calls.get(&second).is_some_and(|calls| *calls >= LIMIT))
}

/// How many samples with the outcome were for certain made in each second, and how many in this or the next.
fn by_second(report: &ChurnReport, name: &str) -> (BTreeMap<u64, u64>, BTreeMap<u64, u64>) {
    let (mut certain, mut between) = (BTreeMap::new(), BTreeMap::new());
    for sample in report.samples.iter().filter(|sample| sample.outcome.as_deref() == Ok(name)) {
        let (began, ended) = (sample.began_ns / SECOND, sample.ended_ns / SECOND);
        *if began == ended { &mut certain } else { &mut between }.entry(began).or_default() += 1;
    }
    (certain, between)
}

/// Each window from `first` on has exactly the limit; calls that may belong to either of two windows are given to
/// the earlier one as far as it has room, and must then fit the later one.
#[track_caller]
fn assert_windows_full(report: &ChurnReport, first: u64) {
    let (certain, between) = by_second(report, "backend1");
    let get = |map: &BTreeMap<u64, u64>, second| map.get(&second).copied().unwrap_or(0);
    let mut carried = 0;
    for second in first..=first + WINDOWS {
        let sure = get(&certain, second) + carried;
        let open = get(&between, second);
        assert!(sure <= LIMIT, "second {second}: {sure} grants, {certain:?} {between:?}");
        assert!(sure + open >= LIMIT, "second {second}: only {sure} or {open} more, {certain:?} {between:?}");
        carried = open - (LIMIT - sure);
    }
    assert_eq!(carried, 0, "{certain:?} {between:?}");
}

#[test]
fn every_second_has_exactly_the_limit() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("qos");
    let mut client = world.client();
    for (family, protocol) in [(Family::V4, Protocol::Udp), (Family::V6, Protocol::Tcp)] {
        let to = family.frontend(1);
        let key = world.plane.publish(protocol, to, alone(limited(family, 1)));
        let (first, before, report) = undisturbed(|| {
            let (before, first) = (world.plane.counters(key, 0), next_second());
            let report = client.churn(&storm(family.kind(protocol), to));
            fills_windows(&report, first).then_some((first, before, report))
        });
        assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["backend1", "direct1"]);
        assert_eq!(report.peers["backend1"], TOTAL, "{:?}", report.peers);
        assert_windows_full(&report, first);
        let counters = world.plane.counters(key, 0);
        assert_eq!(counters.redirected - before.redirected, TOTAL);
        assert_eq!(counters.qos_overflow - before.qos_overflow, report.peers["direct1"]);
        eprintln!("{protocol:?}: {} calls, {TOTAL} redirected", report.successes());
        world.plane.tables.remove(&key).unwrap();
    }
}

#[test]
fn overflow_goes_to_the_second_layer_also_without_a_connection() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("qos-second");
    let mut client = world.client();
    let family = Family::V4;
    let to = family.frontend(1);
    let entry = above(limited(family, 1), layer(2, &[family.backend(2)]));
    let key = world.plane.publish(Protocol::Udp, to, entry);
    let counters = |world: &World| [0, 1].map(|layer| world.plane.counters(key, layer));
    let (first, before, report) = undisturbed(|| {
        let (before, first) = (counters(&world), next_second());
        let report = client.churn(&Churn { exchange: Exchange::Unconnected, ..storm(Kind::Udp4, to) });
        fills_windows(&report, first).then_some((first, before, report))
    });
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["backend1", "backend2"]);
    assert_eq!(report.peers["backend1"], TOTAL);
    assert_windows_full(&report, first);
    let counted = counters(&world);
    assert_eq!(counted[0].redirected - before[0].redirected, TOTAL);
    assert_eq!(counted[0].qos_overflow - before[0].qos_overflow, report.peers["backend2"]);
    assert_eq!(counted[1].redirected - before[1].redirected, report.peers["backend2"]);
}

#[test]
fn all_frontends_of_a_service_share_the_limit_and_other_services_do_not() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("qos-shared");
    let targets = [
        (Family::V4, Protocol::Udp, 1, 1),
        (Family::V4, Protocol::Tcp, 1, 1),
        (Family::V6, Protocol::Udp, 2, 1),
        (Family::V4, Protocol::Udp, 3, 2),
    ];
    let mut clients = targets.map(|_| world.client());
    let keys = targets.map(|(family, protocol, number, service_id)| {
        world.plane.publish(protocol, family.frontend(number), alone(limited(family, service_id)))
    });
    let counted = |world: &World| keys[..3].iter().map(|key| world.plane.redirected(*key)).sum::<u64>();
    let (first, before, all, reports) = undisturbed(|| {
        let (before, first) = (counted(&world), next_second());
        for (client, (family, protocol, number, _)) in clients.iter_mut().zip(targets) {
            client
                .start_churn(&Churn { threads: 2, ..storm(family.kind(protocol), family.frontend(number)) });
        }
        let reports = clients.each_mut().map(Client::end_churn);
        let samples = reports[..3].iter().flat_map(|report| report.samples.clone()).collect();
        let all = ChurnReport { samples, ..ChurnReport::default() };
        let filled = fills_windows(&all, first) && fills_windows(&reports[3], first);
        filled.then_some((first, before, all, reports))
    });
    let granted = |report: &ChurnReport| report.peers.get("backend1").copied().unwrap_or(0);
    for report in &reports {
        assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    }
    assert_windows_full(&all, first);
    assert_eq!(reports[..3].iter().map(granted).sum::<u64>(), TOTAL, "one service");
    assert_eq!(granted(&reports[3]), TOTAL, "another service");
    assert_windows_full(&reports[3], first);
    assert_eq!(counted(&world) - before, TOTAL);
}

#[test]
fn updates_neither_reset_nor_close_the_window() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("qos-updates");
    let mut client = world.client();
    let family = Family::V4;
    let to = family.frontend(1);
    let base = limited(family, 1);
    // The same server under several sets, and a skip rule that meets nobody.
    let twice = Layer {
        backends: vec![weighted(family.backend(1), 1), weighted(family.backend(2), 0)],
        ..base.clone()
    };
    let skip = BTreeSet::from([balancing_dataplane::model::ClientId::NetnsCookie(1)]);
    let variants = [base.clone(), twice, Layer { skip, ..base.clone() }];
    let key = world.plane.publish(Protocol::Udp, to, alone(base));
    let (first, before, report, updates) = undisturbed(|| {
        let (before, first) = (world.plane.redirected(key), next_second());
        client.start_churn(&storm(Kind::Udp4, to));
        let mut updates = 0_u64;
        while monotonic_ns() / SECOND < first + WINDOWS {
            for variant in &variants {
                world.plane.publish(Protocol::Udp, to, alone(variant.clone()));
                updates += 1;
            }
        }
        let report = client.end_churn();
        // Some updates in each window.
        let enough = updates >= 10 * WINDOWS && fills_windows(&report, first);
        enough.then_some((first, before, report, updates))
    });
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(report.peers["backend1"], TOTAL, "{updates} updates");
    assert_windows_full(&report, first);
    assert_eq!(world.plane.redirected(key) - before, TOTAL);
}

#[test]
fn a_limit_that_changes_holds_at_once() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("qos-change");
    let mut client = world.client();
    let family = Family::V4;
    let to = family.frontend(1);
    let with = |limit| alone(Layer { qos_limit: NonZeroU32::new(limit), ..limited(family, 1) });
    let ask =
        |client: &mut Client| client.churn(&Churn { rounds: Some(50), ..Churn::to(Kind::Udp4, to) }).peers;
    // Each step within one second of the kernel, so that nothing is granted anew in between.
    let limits = [10, 30, 20, 0, 40];
    let granted = undisturbed(|| {
        if let Some(key) = world.plane.tables.entries().keys().next().copied() {
            world.plane.tables.remove(&key).unwrap();
        }
        let first = next_second();
        let granted = limits.map(|limit| {
            world.plane.publish(Protocol::Udp, to, with(limit));
            ask(&mut client).get("backend1").copied().unwrap_or(0)
        });
        (monotonic_ns() / SECOND == first).then_some(granted)
    });
    // While there is no limit nothing is granted; the next limit goes on where the last one was.
    assert_eq!(granted, [10, 20, 0, 50, 10]);
}

/// What a policy may do to its frontend within a second.
fn interruptions(family: Family) -> [(&'static str, Vec<Option<Layer>>); 4] {
    let five = Layer { qos_limit: NonZeroU32::new(5), ..limited(family, 1) };
    let other_id = Layer { service_id: 9, ..five.clone() };
    let without_backend = Layer { backends: vec![], ..five.clone() };
    [
        ("the last backend goes and comes back", vec![Some(without_backend), Some(five.clone())]),
        ("another service id", vec![Some(other_id.clone())]),
        ("another service id, and a time without the frontend", vec![None, Some(other_id)]),
        ("deleted and made again", vec![None, Some(five)]),
    ]
}

#[test]
fn a_second_is_never_granted_twice() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("qos-twice");
    let mut client = world.client();
    let family = Family::V4;
    let to = family.frontend(1);
    let first = Layer { qos_limit: NonZeroU32::new(5), ..limited(family, 1) };
    let mut ask = || {
        let churn = Churn { rounds: Some(20), ..Churn::to(Kind::Udp4, to) };
        client.churn(&churn).peers.get("backend1").copied().unwrap_or(0)
    };
    for (what, steps) in interruptions(family) {
        let granted = undisturbed(|| {
            let key = world.plane.publish(Protocol::Udp, to, alone(first.clone()));
            let second = next_second();
            let before = ask();
            for step in &steps {
                match step {
                    Some(layer) => drop(world.plane.publish(Protocol::Udp, to, alone(layer.clone()))),
                    None => world.plane.tables.remove(&key).unwrap(),
                }
            }
            let after = ask();
            (monotonic_ns() / SECOND == second).then_some((before, after))
        });
        assert_eq!(granted, (5, 0), "{what}");
    }
}

#[test]
fn windows_of_policies_that_are_gone_are_used_again() {
    if !require_kernel() {
        return;
    }
    let mut world = World::new("qos-windows");
    let to = Family::V4.frontend(1);
    let limited = |policy| Layer { window: policy, ..limited(Family::V4, 1) };
    // Four times as many policies one after the other as there are windows.
    let windows = u64::from(dataplane::SIZES.qos);
    let mut full = 0;
    for policy in 1..=4 * windows {
        let key = dataplane::key(Protocol::Udp, to);
        wait_until(Duration::from_secs(60), || {
            // Only while all were used within this second there is no room.
            let published = world.plane.tables.publish(key, &alone(limited(policy)));
            full += u64::from(published.is_err());
            published.is_ok()
        });
    }
    let usage = world.plane.tables.usage().unwrap();
    let row = usage.iter().find(|row| row.name == "qos").unwrap();
    assert_eq!((row.capacity, row.dropped), (dataplane::SIZES.qos, Some(full)));
    assert!(row.used <= windows);
}
