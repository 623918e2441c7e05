//! Peers of the fabric into the kernel: all of them, none that changed, one that did.

use std::time::Instant;

use balancing_tests::{
    NetNs,
    tunnel::{Dialled, Host, fabric, member},
};
use balancing_tunnel::{Deletions, Filter, Member};

use crate::{Report, median};

/// Runs of which the median counts.
const RUNS: usize = 7;

pub(crate) fn measure(report: &mut Report) {
    for (peers, cold, rest) in [(1_000u16, 50.0, None), (10_000, 500.0, Some(50.0))] {
        let host = host();
        let members: Vec<Member> = (1..=peers + 1).map(|n| member(n, Dialled::Ipv4)).collect();
        let made = times(|| {
            host.netlink.remove().expect("remove the device");
            let plan = host.plan(&fabric(), &members).expect("plan");
            let start = Instant::now();
            let applied = host.netlink.apply(&plan, Deletions::Allowed).expect("apply");
            assert!(applied.made && applied.writes > 2 * usize::from(peers), "{applied:?}");
            start
        });
        report.at_most(&format!("{peers} tunnel peers, cold"), made, "ms", cold);
        let same = times(|| {
            let start = Instant::now();
            assert_eq!(host.apply(&members).writes, 0);
            start
        });
        let name = format!("{peers} tunnel peers, a look at all that changes nothing");
        match rest {
            Some(target) => report.at_most(&name, same, "ms", target),
            None => report.tell(&name, same, "ms"),
        }
        one_change(report, &host, members.clone(), same);
        filter(report, &host, &members);
    }
}

/// One peer of all gets another underlay address and back.
fn one_change(report: &mut Report, host: &Host, mut members: Vec<Member>, look: f64) {
    let peers = members.len() - 1;
    let underlay = members[1].underlay;
    let other = member(60_000, Dialled::Ipv4).underlay;
    let changed = times(|| {
        members[1].underlay = if members[1].underlay == underlay { other } else { underlay };
        let start = Instant::now();
        assert_eq!(host.apply(&members).writes, 1);
        start
    });
    report.tell(&format!("{peers} tunnel peers, one changes"), changed, "ms");
    report.tell(&format!("{peers} tunnel peers, one changes, above the look"), changed - look, "ms");
}

fn filter(report: &mut Report, host: &Host, members: &[Member]) {
    let peers = members.len() - 1;
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

/// A host whose underlay leads nowhere.
fn host() -> Host {
    let (namespace, other) = (NetNs::new(), NetNs::new());
    namespace.join("eth0", &other, "eth0");
    let own = member(1, Dialled::Ipv4);
    namespace.add_address("192.0.2.1/16", "eth0");
    Host::new(namespace, own)
}

/// Median of the milliseconds since the moment that a run says it began.
fn times(mut run: impl FnMut() -> Instant) -> f64 {
    let mut all: Vec<f64> = (0..RUNS).map(|_| milliseconds(run())).collect();
    median(&mut all)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
