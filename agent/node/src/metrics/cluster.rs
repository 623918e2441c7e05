//! Duties of the elected agent: it writes EndpointSlices and status for the whole cluster.

use std::{collections::BTreeMap, fmt};

use super::Out;

/// An agent that takes part in elections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSample {
    /// It is the elected one.
    pub leader: bool,
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

pub(super) fn write(sample: Option<&ClusterSample>, out: &mut Out<'_>) -> fmt::Result {
    let leader = sample.map(|sample| u64::from(sample.leader));
    out.maybe("leader", "Whether this agent is the elected one", leader)?;
    let writes = |count: fn(&WriteSample) -> u64| {
        let rows = sample.into_iter().flat_map(|sample| &sample.writes);
        rows.map(move |(object, write)| ([("object", *object)], count(write)))
    };
    out.counts("cluster_writes", "Objects written for the whole cluster", writes(|w| w.done))?;
    out.counts("cluster_write_errors", "Writes for the whole cluster that failed", writes(|w| w.failed))
}
