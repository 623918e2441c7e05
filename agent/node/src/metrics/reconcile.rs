//! The agent's loop.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::histogram::Histogram;

use super::Out;

/// Upper bounds in seconds: one changed endpoint to a cold start of a large cluster.
const BUCKETS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How long the rounds of the loop took. Clones share the histogram.
#[derive(Clone, Debug)]
pub struct Reconcile {
    duration: Histogram,
    last_success: Option<SystemTime>,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self { duration: Histogram::new(BUCKETS), last_success: None }
    }
}

impl Reconcile {
    /// Notes a round; `success` = it left nothing to do.
    pub fn done(&mut self, took: Duration, success: bool) {
        self.duration.observe(took.as_secs_f64());
        if success {
            self.last_success = Some(SystemTime::now());
        }
    }

    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let help = "Time to make the kernel as the objects want it";
        out.histogram("reconcile_duration", help, &self.duration)?;
        let help = "When a round left nothing to do last";
        out.time("reconcile_last_success_timestamp", help, self.last_success)
    }
}
