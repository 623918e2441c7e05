//! From measurements to figures.
//!
//! A figure is what a case costs above no program, as a multiple of what the empty program costs above none. Both are
//! medians over the rounds of differences to the nearest measurements of the base.

use super::{
    cases::{Call, Case, Programs, name},
    inside::Inside,
    rounds::Record,
    statistics::{Difference, Point, RESTLESS, Restlessness, Trio, quantile},
};
use crate::{
    Report,
    report::{Detail, Figure},
};

/// Calls that cost the same may differ by so much.
const SAME: f64 = 1.05;

/// By tenth percentile or by median.
type Measure = fn(Point) -> f64;
const P10: Measure = |point| point.p10;
const MEDIAN: Measure = |point| point.median;

/// Everything that was measured.
pub(super) struct Figures<'a> {
    pub(super) cases: &'a [Case],
    pub(super) record: &'a Record,
    pub(super) inside: &'a Inside,
}

impl Figures<'_> {
    /// Reports everything.
    pub(super) fn tell(&self, report: &mut Report) {
        self.runs();
        for call in Call::ALL {
            self.base(report, call);
            for case in self.cases.iter().filter(|case| case.call == call) {
                self.case(report, case);
            }
        }
        self.frontends(report);
        self.closes(report);
    }

    /// Says how far the runs of each base differ, which is why figures are noisy.
    fn runs(&self) {
        let calls = self.record.bases.iter().map(|((call, programs), runs)| (call.title(), programs, runs));
        let closes = self.record.base_closes.iter().map(|(programs, runs)| ("close", programs, runs));
        for (title, programs, runs) in calls.chain(closes) {
            let Restlessness { drift, spread } = Restlessness::of(runs);
            let (drift, spread) = (drift * 100.0, spread * 100.0);
            let base = format!("{title} under {programs:?}");
            eprintln!("{base:52} {:3} runs: drift {drift:4.1} %, quartiles {spread:4.1} % apart", runs.len());
        }
        let disturbed = |call: &Call| {
            let is_noise = |programs| Restlessness::of(&self.record.bases[&(*call, programs)]).is_noise();
            is_noise(Programs::None) && !is_noise(Programs::Empty)
        };
        if Call::ALL.iter().any(disturbed) {
            eprintln!(
                "only runs without a program differ: something else attaches programs to the same hooks of another cgroup"
            );
        }
    }

    /// What a call costs without a program, and what the empty program adds.
    fn base(&self, report: &mut Report, call: Call) {
        let cases = self.cases.iter().filter(|case| case.call == call);
        let trios: Vec<Trio> = cases.flat_map(|case| &self.record.calls[case.name]).copied().collect();
        let none = |measure| middle(&trios, |trio| trio.none, measure);
        let hook = |measure| above_none(&trios, |trio| trio.empty, measure).value;
        let mut told = |what: &str, value, detail| {
            let name = format!("{}: {what}", call.title());
            let noisy = self.is_restless(call);
            report.figure(Figure { name, value, unit: "ns", target: None, noisy, detail });
        };
        told("no program", none(P10), Detail { median: Some(none(MEDIAN)), ..Detail::default() });
        let inside_ns = self.inside.empty.get(&call).copied();
        let detail = Detail { median: Some(hook(MEDIAN)), inside_ns, ..Detail::default() };
        told("empty program, over none", hook(P10), detail);
    }

    /// What a case costs, as a multiple of the empty program's price.
    fn case(&self, report: &mut Report, case: &Case) {
        let trios = &self.record.calls[case.name];
        let added = |measure| above_none(trios, |trio| trio.case, measure);
        let hook = |measure| above_none(trios, |trio| trio.empty, measure);
        let uncertain = added(P10).uncertainty_over(hook(P10)) > RESTLESS;
        let inside = self.inside.cases.get(case.name).zip(self.inside.empty.get(&case.call));
        report.figure(Figure {
            name: case.name.to_owned(),
            value: added(P10).value / hook(P10).value,
            unit: "x empty",
            target: case.bound,
            noisy: uncertain || self.is_restless(case.call),
            detail: Detail {
                median: Some(added(MEDIAN).value / hook(MEDIAN).value),
                p10_ns: Some(added(P10).value),
                median_ns: Some(added(MEDIAN).value),
                inside_ns: inside.map(|(case, empty)| case - empty),
            },
        });
    }

    /// The same target with one frontend in the table and with 60,000, by the whole call.
    fn frontends(&self, report: &mut Report) {
        let ratio = |measure| {
            let [many, one] = [name::HIT, name::ONE_FRONTEND].map(|case| {
                let trios = &self.record.calls[case];
                middle(trios, |trio| trio.none, measure) + above_none(trios, |trio| trio.case, measure).value
            });
            f64::max(many / one, one / many)
        };
        report.figure(Figure {
            name: "connect: 1 and 60,000 frontends, same target".to_owned(),
            value: ratio(P10),
            unit: "x",
            target: Some(SAME),
            noisy: self.is_restless(Call::Connect),
            detail: Detail { median: Some(ratio(MEDIAN)), ..Detail::default() },
        });
    }

    /// close(2) of sockets whose first connect was redirected, and of others, over those under the empty program.
    fn closes(&self, report: &mut Report) {
        let bases = [Programs::None, Programs::Empty].map(|programs| &self.record.base_closes[&programs]);
        let noisy = bases.into_iter().any(|runs| Restlessness::of(runs).is_noise());
        let closes = &self.record.closes;
        let empty = |measure| middle(&closes[name::NEW_HIT], |trio| trio.empty, measure);
        let detail = Detail { median: Some(empty(MEDIAN)), ..Detail::default() };
        let (name, value, unit) = ("close: empty program".to_owned(), empty(P10), "ns");
        report.figure(Figure { name, value, unit, target: None, noisy, detail });
        for (case, name, target) in [
            (name::NEW_HIT, "close: after a hit, over the empty program", Some(SAME)),
            (name::NEW_MISS, "close: after a miss, over the empty program", None),
        ] {
            let added = |measure: Measure| {
                let differences = closes[case].iter().map(|trio| measure(trio.case) - measure(trio.empty));
                Difference::of(&differences.collect::<Vec<_>>())
            };
            report.figure(Figure {
                name: name.to_owned(),
                value: 1.0 + added(P10).value / empty(P10),
                unit: "x",
                target,
                noisy: noisy || added(P10).error / empty(P10) > RESTLESS,
                detail: Detail {
                    median: Some(1.0 + added(MEDIAN).value / empty(MEDIAN)),
                    p10_ns: Some(added(P10).value),
                    median_ns: Some(added(MEDIAN).value),
                    inside_ns: None,
                },
            });
        }
    }

    /// Whether a base of the call differed from run to run.
    fn is_restless(&self, call: Call) -> bool {
        let bases = [Programs::None, Programs::Empty].map(|programs| &self.record.bases[&(call, programs)]);
        bases.into_iter().any(|runs| Restlessness::of(runs).is_noise())
    }
}

/// The median of what a part costs above no program.
fn above_none(trios: &[Trio], part: fn(&Trio) -> Point, measure: Measure) -> Difference {
    let differences = trios.iter().map(|trio| measure(part(trio)) - measure(trio.none));
    Difference::of(&differences.collect::<Vec<_>>())
}

/// The median of a part.
fn middle(trios: &[Trio], part: fn(&Trio) -> Point, measure: Measure) -> f64 {
    quantile(&trios.iter().map(|trio| measure(part(trio))).collect::<Vec<_>>(), 0.5)
}
