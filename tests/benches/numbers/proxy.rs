//! Packets through tunnel and proxy, and what the proxy's tables cost.
//!
//! Every way of traffic is measured once a round, in another order each round, between two measurements of its base; a figure is the median of
//! the rounds' ratios.

use std::collections::BTreeMap;

use crate::{
    Report,
    report::{Bound, Detail, Figure},
    statistics::{Difference, quantile},
};

mod tables;
mod traffic;
mod ways;

use traffic::Load;
use ways::{Way, Ways};

/// Rounds of all loads.
const ROUNDS: usize = 15;

pub(crate) fn measure(report: &mut Report) {
    tables::measure(report);
    let mut ways = Ways::new();
    let mut record = Record::default();
    for round in 0..ROUNDS {
        for load in [Load::Stream, Load::Datagrams, Load::Questions, Load::Connections] {
            record.round(&mut ways, load, round);
        }
    }
    record.tell(report);
}

/// Values of a load on a way, and its ratio to the base of the round.
#[derive(Default)]
struct Values {
    plain: Vec<f64>,
    ratios: Vec<f64>,
}

/// Everything that was measured.
#[derive(Default)]
struct Record(BTreeMap<(Load, Way), Values>);

impl Load {
    /// What the others are compared with, and they.
    fn ways(self) -> (Way, &'static [Way]) {
        match self {
            Self::Connections => (Way::Nftables, &[Way::Tunnel, Way::Proxy]),
            _ => (Way::Direct, &[Way::Tunnel, Way::Proxy]),
        }
    }
}

impl Record {
    /// Measures a load on every way.
    fn round(&mut self, ways: &mut Ways, load: Load, round: usize) {
        let (base, others) = load.ways();
        let mut before = ways.measure(load, base);
        for number in 0..others.len() {
            let way = others[(number + round) % others.len()];
            let value = ways.measure(load, way);
            let after = ways.measure(load, base);
            let values = self.0.entry((load, way)).or_default();
            values.plain.push(value);
            values.ratios.push(value / f64::midpoint(before, after));
            self.0.entry((load, base)).or_default().plain.push(after);
            before = after;
        }
    }

    fn tell(&self, report: &mut Report) {
        self.plain(report, (Load::Stream, Way::Direct), "TCP stream, direct, same MTU", "Gbit/s");
        self.ratio(report, (Load::Stream, Way::Tunnel), "TCP stream, tunnel, of direct", None);
        let target = Some(Bound::AtLeast(0.8));
        self.ratio(report, (Load::Stream, Way::Proxy), "TCP stream, tunnel and proxy, of direct", target);
        self.plain(report, (Load::Datagrams, Way::Direct), "64-byte UDP, direct, same MTU", "kpps");
        self.ratio(report, (Load::Datagrams, Way::Tunnel), "64-byte UDP, tunnel, of direct", None);
        let target = Some(Bound::AtLeast(0.65));
        self.ratio(report, (Load::Datagrams, Way::Proxy), "64-byte UDP, tunnel and proxy, of direct", target);
        self.plain(report, (Load::Questions, Way::Direct), "question and answer by TCP, direct", "us");
        for (way, name) in [(Way::Tunnel, "tunnel"), (Way::Proxy, "tunnel and proxy")] {
            self.added(report, way, &format!("question and answer by TCP, {name}, more than direct"));
        }
        self.plain(
            report,
            (Load::Connections, Way::Nftables),
            "new TCP connections, tunnel and nftables",
            "/s",
        );
        let (load, target) = (Load::Connections, Some(Bound::AtLeast(1.0)));
        self.ratio(report, (load, Way::Proxy), "new TCP connections, tunnel and proxy, of nftables", target);
        self.ratio(
            report,
            (load, Way::Tunnel),
            "new TCP connections, tunnel without either, of nftables",
            None,
        );
    }

    fn plain(&self, report: &mut Report, of: (Load, Way), name: &str, unit: &'static str) {
        report.tell(name, quantile(&self.0[&of].plain, 0.5), unit);
    }

    fn ratio(&self, report: &mut Report, of: (Load, Way), name: &str, target: Option<Bound>) {
        let ratio = Difference::of(&self.0[&of].ratios);
        let (name, value, noisy) = (name.to_owned(), ratio.value, ratio.is_noise());
        report.figure(Figure { name, value, unit: "x", target, noisy, detail: Detail::default() });
    }

    /// What a way adds to the time of an answer.
    fn added(&self, report: &mut Report, way: Way, name: &str) {
        let base = quantile(&self.0[&(Load::Questions, Way::Direct)].plain, 0.5);
        let ratio = quantile(&self.0[&(Load::Questions, way)].ratios, 0.5);
        report.tell(name, base * (ratio - 1.0), "us");
    }
}
