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

/// Waits for the first tenth of a second, and returns the number of that second. What is over before the second
/// `WINDOWS` later ends has then met each of `WINDOWS` + 1 windows for most of its time.
fn wait_for_a_second() -> u64 {
    wait_until(Duration::from_secs(3), || monotonic_ns() % SECOND < SECOND / 10);
    monotonic_ns() / SECOND
}

/// A churn of 8 threads that ends in the middle of the last window.
fn storm(kind: Kind, to: std::net::SocketAddr) -> Churn {
    let duration = Some(Duration::from_millis(1000 * WINDOWS + 500));
    Churn { threads: 8, duration, samples: true, ..Churn::to(kind, to) }
}

/// Makes sure that the samples began and ended within the windows from `first` on, and counts them: `WINDOWS` + 1.
fn windows(report: &ChurnReport, first: u64) -> u64 {
    let last = report.samples.iter().map(|sample| sample.ended_ns / SECOND).max().expect("samples");
    assert_eq!(last, first + WINDOWS, "the machine stood still, or the test's arithmetic is wrong");
    WINDOWS + 1
}

/// How many samples with the outcome were for certain made in each second, and how many in this or the next.
fn by_second(report: &ChurnReport, name: &str) -> (BTreeMap<u64, u64>, BTreeMap<u64, u64>) {
    let (mut certain, mut between) = (BTreeMap::new(), BTreeMap::new());
    for sample in report.samples.iter().filter(|sample| sample.outcome.as_deref() == Ok(name)) {
        let (began, ended) = (sample.began_ns / SECOND, sample.ended_ns / SECOND);
        assert!(ended - began <= 1, "a call took more than a second");
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
        let first = wait_for_a_second();
        let report = client.churn(&storm(family.kind(protocol), to));
        let total = LIMIT * windows(&report, first);
        assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
        assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["backend1", "direct1"]);
        assert_eq!(report.peers["backend1"], total, "{:?}", report.peers);
        assert_windows_full(&report, first);
        let counters = world.plane.counters(key, 0);
        assert_eq!(counters.redirected, total);
        assert_eq!(counters.qos_overflow, report.peers["direct1"]);
        eprintln!(
            "{protocol:?}: {} calls, {total} redirected in {} windows",
            report.successes(),
            WINDOWS + 1
        );
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
    let first = wait_for_a_second();
    let report = client.churn(&Churn { exchange: Exchange::Unconnected, ..storm(Kind::Udp4, to) });
    let total = LIMIT * windows(&report, first);
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(report.peers.keys().collect::<Vec<_>>(), ["backend1", "backend2"]);
    assert_eq!(report.peers["backend1"], total);
    assert_windows_full(&report, first);
    let counted = [0, 1].map(|layer| world.plane.counters(key, layer));
    assert_eq!((counted[0].redirected, counted[0].qos_overflow), (total, report.peers["backend2"]));
    assert_eq!(counted[1].redirected, report.peers["backend2"]);
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
    let first = wait_for_a_second();
    for (client, (family, protocol, number, _)) in clients.iter_mut().zip(targets) {
        client.start_churn(&Churn { threads: 2, ..storm(family.kind(protocol), family.frontend(number)) });
    }
    let reports = clients.each_mut().map(Client::end_churn);
    let granted = |report: &ChurnReport| report.peers.get("backend1").copied().unwrap_or(0);
    for report in &reports {
        assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    }
    let samples = reports[..3].iter().flat_map(|report| report.samples.clone()).collect();
    let all = ChurnReport { samples, ..ChurnReport::default() };
    let total = LIMIT * windows(&all, first);
    assert_windows_full(&all, first);
    assert_eq!(reports[..3].iter().map(granted).sum::<u64>(), total, "one service");
    assert_eq!(granted(&reports[3]), LIMIT * windows(&reports[3], first), "another service");
    assert_windows_full(&reports[3], first);
    let counted: u64 = keys[..3].iter().map(|key| world.plane.redirected(*key)).sum();
    assert_eq!(counted, total);
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
    let first = wait_for_a_second();
    client.start_churn(&storm(Kind::Udp4, to));
    let mut updates = 0_u64;
    while monotonic_ns() / SECOND < first + WINDOWS {
        for variant in &variants {
            world.plane.publish(Protocol::Udp, to, alone(variant.clone()));
            updates += 1;
        }
    }
    let report = client.end_churn();
    let total = LIMIT * windows(&report, first);
    assert_eq!(report.errors.len(), 0, "{:?}", report.errors);
    assert_eq!(report.peers["backend1"], total, "{updates} updates");
    assert_windows_full(&report, first);
    assert_eq!(world.plane.redirected(key), total);
    assert!(updates > 1000, "{updates} updates");
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
    let granted = loop {
        if let Some(key) = world.plane.tables.entries().keys().next().copied() {
            world.plane.tables.remove(&key).unwrap();
        }
        let first = wait_for_a_second();
        let granted = limits.map(|limit| {
            world.plane.publish(Protocol::Udp, to, with(limit));
            ask(&mut client).get("backend1").copied().unwrap_or(0)
        });
        if monotonic_ns() / SECOND == first {
            break granted;
        }
    };
    // Without a limit the window is given up; the next limit starts a new one.
    assert_eq!(granted, [10, 20, 0, 50, 40]);
}
