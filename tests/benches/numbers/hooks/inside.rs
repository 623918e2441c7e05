//! The second witness: what the kernel counts inside the programs.
//!
//! Its statistics cost time themselves, so they are on only for a pass of their own.

use std::{collections::BTreeMap, fs};

use super::{
    cases::{Call, Case, Programs},
    rounds::Stage,
};
use crate::statistics::quantile;

/// Measurements of each case.
const RUNS: usize = 5;
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Nanoseconds a call inside the programs of each case, and inside the empty program of each call: tenth percentiles.
#[derive(Default)]
pub(super) struct Inside {
    pub(super) cases: BTreeMap<&'static str, f64>,
    pub(super) empty: BTreeMap<Call, f64>,
}

/// The kernel's switch; as it was before on drop.
struct Statistics {
    before: String,
}

impl Statistics {
    fn on() -> Self {
        let before = fs::read_to_string(SWITCH).expect("the kernel has run-time statistics");
        fs::write(SWITCH, "1").expect("root may switch them on");
        Self { before }
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        fs::write(SWITCH, &self.before).expect("root may switch them off");
    }
}

/// Measures every case and every empty program.
pub(super) fn measure(stage: &Stage, cases: &[Case]) -> Inside {
    let _on = Statistics::on();
    let p10 = |case: &Case| quantile(&(0..RUNS).flat_map(|_| stage.inside(case)).collect::<Vec<_>>(), 0.1);
    Inside {
        cases: cases.iter().map(|case| (case.name, p10(case))).collect(),
        empty: Call::ALL.map(|call| (call, p10(&call.base(Programs::Empty)))).into(),
    }
}
