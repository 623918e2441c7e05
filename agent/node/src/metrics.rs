//! The metrics of the agent in the OpenMetrics text format.
//!
//! Nothing is registered and nothing is kept: at a scrape the data-plane thread answers a [`Sample`], and this module
//! writes it. `docs/metrics.md` is the list for users. Labels are fixed words, except for the names of policies.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

mod cluster;
mod fabric;
mod links;
mod out;
mod plugin;
mod policies;
mod reconcile;
mod source;
mod tables;

pub use cluster::{ControllerSample, WriteSample};
pub use fabric::FabricSample;
pub use links::{AttachFailures, LinkSample};
pub use plugin::PluginSample;
pub use policies::{PolicySample, Traffic};
pub use reconcile::{ReconcileSample, Rounds};
pub use source::{SourceSample, WatchSample};
pub use tables::TableSample;

use out::Out;

/// What [`encode`] writes, for the header `Content-Type` (OpenMetrics 1.0, "Overall Structure").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "balancing";

/// The agent at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// ABI number of the data plane.
    pub abi: u32,
    /// Everything wanted is programmed and attached.
    pub ready: bool,
    /// Where objects come from.
    pub source: SourceSample,
    /// What became of the policies.
    pub policies: PolicySample,
    /// The tables of the kernel.
    pub tables: TableSample,
    /// The data-plane thread.
    pub reconcile: ReconcileSample,
    /// Links to programs.
    pub links: LinkSample,
    /// The fabric.
    pub fabric: FabricSample,
    /// The installer of the CNI plugin.
    pub plugin: PluginSample,
}

impl Sample {
    fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let abi = self.abi.to_string();
        out.info("build", "The build that runs", [("version", env!("CARGO_PKG_VERSION")), ("abi", &abi)])?;
        out.value("ready", "Whether everything wanted is programmed and attached", u64::from(self.ready))?;
        self.source.write(out)?;
        self.policies.write(out)?;
        self.tables.write(out)?;
        self.reconcile.write(out)?;
        self.links.write(out)?;
        self.fabric.write(out)?;
        self.plugin.write(out)
    }
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.write(&mut Out::new(encoder))
    }
}

/// Writes a sample.
///
/// # Errors
/// None that a string gives.
pub fn encode(sample: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(sample));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
