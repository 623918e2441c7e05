//! Percentiles, and how far they can be trusted.

/// A figure whose standard error is a larger share of it is noisy.
pub(crate) const RESTLESS: f64 = 0.05;
/// Standard error of a median as a multiple of the interquartile range over the root of the number of values, for
/// values that are distributed normally.
const MEDIAN_ERROR: f64 = 1.2533 / 1.349;

/// One measurement by two measures, in nanoseconds a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) p10: f64,
    pub(crate) median: f64,
}

/// What was measured together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) case: Point,
    /// What the case is compared with.
    pub(crate) base: Point,
}

/// A median of differences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference {
    pub(crate) value: f64,
    /// Its standard error.
    pub(crate) error: f64,
}

impl Point {
    /// Of the batches of one measurement.
    pub(crate) fn of(batches: &[f64]) -> Self {
        Self { p10: quantile(batches, 0.1), median: quantile(batches, 0.5) }
    }

    /// Halfway between two.
    pub(crate) fn between(a: Self, b: Self) -> Self {
        Self { p10: f64::midpoint(a.p10, b.p10), median: f64::midpoint(a.median, b.median) }
    }
}

impl Difference {
    /// The median of some differences.
    pub(crate) fn of(differences: &[f64]) -> Self {
        let range = quantile(differences, 0.75) - quantile(differences, 0.25);
        let error = MEDIAN_ERROR * range / (differences.len() as f64).sqrt();
        Self { value: quantile(differences, 0.5), error }
    }

    /// One more than the ratio to another: what both cost together, as a multiple of what the other costs.
    pub(crate) fn on_top_of(self, other: Self) -> Self {
        let ratio = self.value / other.value;
        Self {
            value: 1.0 + ratio,
            error: (self.error / other.value).hypot(ratio * other.error / other.value),
        }
    }

    /// Whether the value means nothing.
    pub(crate) fn is_noise(self) -> bool {
        let share = self.error / self.value;
        share.is_nan() || share > RESTLESS
    }
}

/// The value that a share of the values does not exceed.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
}
