//! Peers of the fabric into the kernel: all of them, none that changed, one that did.

use std::time::Instant;

use balancing_tests::{
    NetNs,
    tunnel::{Dialled, Host, fabric, member},
};
use balancing_tunnel::{Deletions, Filter, Member, Pair};

use crate::{Report, median, rest};

/// Runs of which the median counts.
const RUNS: usize = 7;

pub(crate) fn measure(report: &mut Report) {
    for (peers, cold, rest) in [(1_000u16, 50.0, None), (10_000, 500.0, Some(50.0))] {
        // Two entries a peer, which the targets are for, then three.
        let members: Vec<Member> = (1..=peers + 1).map(ipv4_inside).collect();
        all(report, &format!("{peers} tunnel peers"), &members, (Some(cold), rest));
        let members: Vec<Member> = (1..=peers + 1).map(|n| member(n, Dialled::Ipv4)).collect();
        all(report, &format!("{peers} tunnel peers of both families"), &members, (None, None));
        filter(report, &members);
    }
    rest::measure(report);
}

fn all(report: &mut Report, name: &str, members: &[Member], targets: (Option<f64>, Option<f64>)) {
    let host = host(members);
    let mut figure = |what: &str, value, target: Option<f64>| {
        let name = format!("{name}, {what}");
        match target {
            Some(target) => report.at_most(&name, value, "ms", target),
            None => report.tell(&name, value, "ms"),
        }
    };
    let made = times(|| {
        host.netlink.remove().expect("remove the device");
        let plan = host.plan(&fabric(), members).expect("plan");
        let start = Instant::now();
        let applied = host.netlink.apply(&plan, Deletions::Allowed).expect("apply");
        assert!(applied.made && applied.writes > 2 * (members.len() - 1), "{applied:?}");
        start
    });
    figure("cold", made, targets.0);
    let same = times(|| {
        let start = Instant::now();
        assert_eq!(host.apply(members).writes, 0);
        start
    });
    figure("a look at all that changes nothing", same, targets.1);
    let changed = one_change(&host, members.to_vec());
    figure("one changes", changed, None);
    figure("one changes, above the look", changed - same, None);
}

/// One peer of all gets another underlay address and back.
fn one_change(host: &Host, mut members: Vec<Member>) -> f64 {
    let underlay = members[1].underlay;
    let other = member(60_000, Dialled::Ipv4).underlay;
    times(|| {
        members[1].underlay = if members[1].underlay == underlay { other } else { underlay };
        let start = Instant::now();
        assert_eq!(host.apply(&members).writes, 1);
        start
    })
}

fn filter(report: &mut Report, members: &[Member]) {
    let (host, peers) = (host(members), members.len() - 1);
    let mut filter = Filter::new();
    let mut apply = |members: &[Member]| {
        let apply = || filter.apply(members, &fabric(), &host.own).expect("set the filter");
        host.namespace.run(apply).changed
    };
    let start = Instant::now();
    assert!(apply(members));
    report.tell(&format!("filter of {peers} members, new"), milliseconds(start), "ms");
    let same = times(|| {
        let start = Instant::now();
        assert!(!apply(members));
        start
    });
    report.tell(&format!("filter of {peers} members, a look that changes nothing"), same, "ms");
    let start = Instant::now();
    assert!(apply(&members[..peers]));
    report.tell(&format!("filter of {peers} members, one leaves"), milliseconds(start), "ms");
}

/// A member that has an IPv4 address only in the tunnel too.
fn ipv4_inside(n: u16) -> Member {
    let member = member(n, Dialled::Ipv4);
    Member { addresses: Pair { v6: None, ..member.addresses }, ..member }
}

/// The first member's host, whose underlay leads nowhere.
fn host(members: &[Member]) -> Host {
    let (namespace, other) = (NetNs::new(), NetNs::new());
    namespace.join("eth0", &other, "eth0");
    namespace.add_address("192.0.2.1/16", "eth0");
    Host::new(namespace, members[0].clone())
}

/// Median of the milliseconds since the moment that a run says it began.
fn times(mut run: impl FnMut() -> Instant) -> f64 {
    let mut all: Vec<f64> = (0..RUNS).map(|_| milliseconds(run())).collect();
    median(&mut all)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
