//! From measurements to figures.
//!
//! A figure is what a case costs above no program, as a multiple of what the empty program costs above none: one more
//! than what it costs above the empty program, with which it took turns, over what that costs above none. Both are
//! medians over the rounds.

use super::{
    cases::{Call, Case, name},
    inside::Inside,
    rounds::Record,
};
use crate::{
    Report,
    report::{Bound, Detail, Figure},
    statistics::{Difference, Pair, Point, quantile},
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
        for call in Call::ALL {
            self.base(report, call);
            for case in self.cases.iter().filter(|case| case.call == call) {
                self.case(report, case);
            }
        }
        self.frontends(report);
        self.closes(report);
    }

    /// What a call costs without a program, and what the empty program adds.
    fn base(&self, report: &mut Report, call: Call) {
        let bases = &self.record.bases[&call];
        let none = |measure| middle(bases, |pair| pair.base, measure);
        let mut told = |what: &str, value: f64, noisy, detail| {
            let name = format!("{}: {what}", call.title());
            report.figure(Figure { name, value, unit: "ns", target: None, noisy, detail });
        };
        told("no program", none(P10), false, Detail { median: Some(none(MEDIAN)), ..Detail::default() });
        let inside_ns = self.inside.empty.get(&call).copied();
        let detail = Detail { median: Some(self.hook(call, MEDIAN).value), inside_ns, ..Detail::default() };
        let hook = self.hook(call, P10);
        told("empty program, over none", hook.value, hook.is_noise(), detail);
    }

    /// What a case costs, as a multiple of the empty program's price.
    fn case(&self, report: &mut Report, case: &Case) {
        let added = |measure| above(&self.record.calls[case.name], measure);
        let ratio = |measure| added(measure).on_top_of(self.hook(case.call, measure));
        let above_none = |measure| self.hook(case.call, measure).value + added(measure).value;
        let inside = self.inside.cases.get(case.name).zip(self.inside.empty.get(&case.call));
        report.figure(Figure {
            name: case.name.to_owned(),
            value: ratio(P10).value,
            unit: "x empty",
            target: case.bound.map(Bound::AtMost),
            noisy: ratio(P10).is_noise(),
            detail: Detail {
                median: Some(ratio(MEDIAN).value),
                p10_ns: Some(above_none(P10)),
                median_ns: Some(above_none(MEDIAN)),
                inside_ns: inside.map(|(case, empty)| case - empty),
            },
        });
    }

    /// What the empty program costs above none.
    fn hook(&self, call: Call, measure: Measure) -> Difference {
        above(&self.record.bases[&call], measure)
    }

    /// The same target with one frontend in the table and with 60,000, by the whole call.
    fn frontends(&self, report: &mut Report) {
        let [many, one] = [name::HIT, name::ONE_FRONTEND].map(|case| &self.record.calls[case]);
        let ratio = |measure| {
            let [many, one] = [many, one].map(|pairs| Difference {
                value: middle(many, |pair| pair.base, measure) + above(pairs, measure).value,
                ..above(pairs, measure)
            });
            let value = f64::max(many.value / one.value, one.value / many.value);
            Difference { value, error: (many.error / many.value).hypot(one.error / one.value) }
        };
        report.figure(Figure {
            name: "connect: 1 and 60,000 frontends, same target".to_owned(),
            value: ratio(P10).value,
            unit: "x",
            target: Some(Bound::AtMost(SAME)),
            noisy: ratio(P10).is_noise(),
            detail: Detail { median: Some(ratio(MEDIAN).value), ..Detail::default() },
        });
    }

    /// close(2) of sockets whose first connect was redirected, and of others, over those under the empty program.
    fn closes(&self, report: &mut Report) {
        let closes = &self.record.closes;
        let empty = |measure| middle(&closes[name::NEW_HIT], |pair| pair.base, measure);
        let detail = Detail { median: Some(empty(MEDIAN)), ..Detail::default() };
        let (name, value, unit) = ("close: empty program".to_owned(), empty(P10), "ns");
        report.figure(Figure { name, value, unit, target: None, noisy: false, detail });
        for (case, name, target) in [
            (name::NEW_HIT, "close: after a hit, over the empty program", Some(SAME)),
            (name::NEW_MISS, "close: after a miss, over the empty program", None),
        ] {
            let added = |measure| above(&closes[case], measure);
            let ratio = |measure| added(measure).on_top_of(Difference { value: empty(measure), error: 0.0 });
            report.figure(Figure {
                name: name.to_owned(),
                value: ratio(P10).value,
                unit: "x",
                target: target.map(Bound::AtMost),
                noisy: ratio(P10).is_noise(),
                detail: Detail {
                    median: Some(ratio(MEDIAN).value),
                    p10_ns: Some(added(P10).value),
                    median_ns: Some(added(MEDIAN).value),
                    inside_ns: None,
                },
            });
        }
    }
}

/// The median of what cases cost above their bases.
fn above(pairs: &[Pair], measure: Measure) -> Difference {
    let differences = pairs.iter().map(|pair| measure(pair.case) - measure(pair.base));
    Difference::of(&differences.collect::<Vec<_>>())
}

/// The median of a part.
fn middle(pairs: &[Pair], part: fn(&Pair) -> Point, measure: Measure) -> f64 {
    quantile(&pairs.iter().map(|pair| measure(part(pair))).collect::<Vec<_>>(), 0.5)
}
