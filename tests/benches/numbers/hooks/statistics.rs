//! Percentiles, and how far they can be trusted.

/// Runs of a base that differ by more than this share make the figures that rest on them noisy.
pub(super) const RESTLESS: f64 = 0.05;
/// Standard error of a median as a multiple of the interquartile range over the root of the number of values, for
/// values that are distributed normally.
const MEDIAN_ERROR: f64 = 1.2533 / 1.349;

/// One measurement by two measures, in nanoseconds a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) p10: f64,
    pub(super) median: f64,
}

/// A case beside what was measured just before and just after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trio {
    pub(super) case: Point,
    pub(super) none: Point,
    pub(super) empty: Point,
}

/// A median of differences.
#[derive(Clone, Copy, Debug)]
pub(super) struct Difference {
    pub(super) value: f64,
    /// Its standard error.
    pub(super) error: f64,
}

impl Point {
    /// Of the batches of one measurement.
    pub(super) fn of(batches: &[f64]) -> Self {
        Self { p10: quantile(batches, 0.1), median: quantile(batches, 0.5) }
    }

    /// Halfway between two.
    pub(super) fn between(a: Self, b: Self) -> Self {
        Self { p10: f64::midpoint(a.p10, b.p10), median: f64::midpoint(a.median, b.median) }
    }
}

impl Difference {
    /// The median of some differences.
    pub(super) fn of(differences: &[f64]) -> Self {
        let range = quantile(differences, 0.75) - quantile(differences, 0.25);
        let error = MEDIAN_ERROR * range / (differences.len() as f64).sqrt();
        Self { value: quantile(differences, 0.5), error }
    }

    /// How far the ratio to another may be off, as a share of it.
    pub(super) fn uncertainty_over(self, other: Self) -> f64 {
        (self.error / self.value).hypot(other.error / other.value)
    }
}

/// The value that a share of the values does not exceed.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// How far runs of the same thing differ, as shares of their median.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restlessness {
    /// Between the medians of the first and the last third.
    pub(super) drift: f64,
    /// Between the quartiles.
    pub(super) spread: f64,
}

impl Restlessness {
    /// Of runs in their order.
    pub(super) fn of(runs: &[f64]) -> Self {
        let third = runs.len().div_ceil(3);
        let (first, last) = (&runs[..third], &runs[runs.len() - third..]);
        let drift = (quantile(first, 0.5) - quantile(last, 0.5)).abs();
        let spread = quantile(runs, 0.75) - quantile(runs, 0.25);
        let median = quantile(runs, 0.5);
        Self { drift: drift / median, spread: spread / median }
    }

    /// Whether figures that rest on the runs mean nothing.
    pub(super) fn is_noise(self) -> bool {
        // Not the other way round: what is no number is noise.
        !(self.drift <= RESTLESS && self.spread <= RESTLESS)
    }
}
