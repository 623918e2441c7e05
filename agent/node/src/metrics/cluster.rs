//! The controller: it writes EndpointSlices and status for the whole cluster.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use balancing_kube::cluster::ClusterStats;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::Out;

/// A replica of the controller at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerSample {
    /// It is the leader.
    pub leader: bool,
    /// It is the leader and knows the whole cluster.
    pub synced: bool,
    /// What it wrote since it started, by fixed words such as `endpointslice` and `status`.
    pub writes: BTreeMap<&'static str, WriteSample>,
}

/// Requests that write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteSample {
    /// Those that succeeded.
    pub done: u64,
    /// Those that failed.
    pub failed: u64,
}

impl From<&ClusterStats> for ControllerSample {
    fn from(stats: &ClusterStats) -> Self {
        let write = |done: &AtomicU64, failed: &AtomicU64| WriteSample {
            done: done.load(Relaxed),
            failed: failed.load(Relaxed),
        };
        let writes = [
            ("endpointslice", write(&stats.slice_writes, &stats.slice_errors)),
            ("status", write(&stats.status_writes, &stats.status_errors)),
            ("fabric", write(&stats.fabric_writes, &stats.fabric_errors)),
        ];
        let (leader, synced) = (stats.is_leader.load(Relaxed), stats.is_synced.load(Relaxed));
        Self { leader, synced, writes: BTreeMap::from(writes) }
    }
}

impl ControllerSample {
    fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        out.info("controller_build", "The build that runs", [("version", env!("CARGO_PKG_VERSION"))])?;
        out.value("leader", "Whether this replica is the leader", u64::from(self.leader))?;
        let help = "Whether this replica is the leader and knows the whole cluster";
        out.value("cluster_synced", help, u64::from(self.synced))?;
        let writes = |count: fn(&WriteSample) -> u64| {
            self.writes.iter().map(move |(object, write)| ([("object", *object)], count(write)))
        };
        out.counts("cluster_writes", "Objects written for the whole cluster", writes(|w| w.done))?;
        out.counts("cluster_write_errors", "Writes for the whole cluster that failed", writes(|w| w.failed))
    }
}

impl Collector for ControllerSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.write(&mut Out::new(encoder))
    }
}
