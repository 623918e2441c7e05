//! The data-plane thread and its reconcilers.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::histogram::Histogram;

use super::Out;
use crate::reconcile::State;

/// Upper bounds in seconds: one changed endpoint to a cold start of a large cluster.
const BUCKETS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How long the rounds of the thread took. Clones share the histogram.
#[derive(Clone, Debug)]
pub struct Rounds {
    duration: Histogram,
    last_success: Option<SystemTime>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { duration: Histogram::new(BUCKETS), last_success: None }
    }
}

impl Rounds {
    /// Notes a round; `success` = it left nothing to do.
    pub fn done(&mut self, took: Duration, success: bool) {
        self.duration.observe(took.as_secs_f64());
        if success {
            self.last_success = Some(SystemTime::now());
        }
    }
}

/// The thread at one moment.
#[derive(Clone, Debug, Default)]
pub struct ReconcileSample {
    /// All rounds.
    pub rounds: Rounds,
    /// Each reconciler.
    pub states: Vec<State>,
}

impl ReconcileSample {
    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Time to make the kernel as the objects want it";
        out.histogram("reconcile_duration", help, &self.rounds.duration)?;
        let help = "When a round left nothing to do last";
        out.time("reconcile_last_success_timestamp", help, self.rounds.last_success)?;
        let of = |value: fn(&State) -> u64| {
            self.states.iter().map(move |state| ([("reconciler", state.name)], value(state)))
        };
        let help = "Whether a reconciler has failed and tries again";
        out.values("reconciler_failing", help, of(|state| u64::from(state.is_failing)))?;
        out.counts("reconciler_runs", "Runs of a reconciler", of(|state| state.runs))?;
        out.counts("reconciler_failures", "Runs of a reconciler that failed", of(|state| state.failures))
    }
}
