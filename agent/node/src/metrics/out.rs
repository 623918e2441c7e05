//! Writes families of metrics. A family without rows still has its description.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _,
        NoLabelSet,
    },
    metrics::{MetricType, histogram::Histogram},
    registry::Unit,
};

/// The output of one scrape.
pub(super) struct Out<'a>(DescriptorEncoder<'a>);

impl<'a> Out<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// A gauge without labels.
    pub(super) fn value(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.maybe(name, help, Some(value))
    }

    /// A gauge without labels that may have no value.
    pub(super) fn maybe(
        &mut self,
        name: &str,
        help: &str,
        value: Option<impl EncodeGaugeValue>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    /// A counter without labels that may have no value; its name ends in `_total`.
    pub(super) fn count(&mut self, name: &str, help: &str, value: Option<u64>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        value.map_or(Ok(()), |value| metric.encode_counter::<NoLabelSet, _, u64>(&value, None))
    }

    /// A point in time in seconds since 1970; its name ends in `_seconds`.
    pub(super) fn time(&mut self, name: &str, help: &str, value: Option<SystemTime>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        let since = value.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        since.map_or(Ok(()), |since| metric.encode_gauge(&since.as_secs_f64()))
    }

    /// A histogram of seconds; its name ends in `_seconds`.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        histogram.encode(self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?)
    }

    /// Facts that do not change; the name ends in `_info`.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    /// Gauges, one a row of labels.
    pub(super) fn values<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    /// Counters, one a row of labels; the name ends in `_total`.
    pub(super) fn counts<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }
}
