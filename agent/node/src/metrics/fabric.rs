//! The nodeProxy fabric: members, packets through the tunnel, and what was dropped.

use std::{collections::BTreeMap, fmt};

use balancing_dataplane::proxy::{Counters, Usage};

use super::Out;

/// The fabric at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FabricSample {
    /// This host is a member, and its device is there.
    pub member: bool,
    /// The other members.
    pub peers: usize,
    /// What the proxy has counted; `None` = it is not loaded or cannot be read.
    pub traffic: Option<Counters>,
    /// Dropped by the filter at the tunnel's port, by reason.
    pub filtered: BTreeMap<String, u64>,
    /// The proxy's tables.
    pub tables: Vec<Usage>,
}

impl FabricSample {
    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let member = "Whether this host is a member of a fabric and has its device";
        out.value("fabric_member", member, u64::from(self.member))?;
        out.value("fabric_peers", "Other members of the fabric", self.peers)?;
        let ways = self.traffic.iter().flat_map(|c| [("in", c.ingress), ("out", c.egress)]);
        let packets = ways.clone().map(|(way, (packets, _))| ([("direction", way)], packets));
        out.counts("tunnel_packets", "Packets through the tunnel, as many as on the wire", packets)?;
        let bytes = ways.map(|(way, (_, bytes))| ([("direction", way)], bytes));
        out.counts("tunnel_bytes", "Bytes through the tunnel", bytes)?;
        let connections = self.traffic.iter().flat_map(|c| [("proxied", c.proxied), ("started", c.started)]);
        let connections = connections.map(|(kind, count)| ([("kind", kind)], count));
        out.counts("tunnel_connections", "Connections through the tunnel", connections)?;
        let dropped = self.drops().into_iter().map(|(reason, count)| ([("reason", reason)], count));
        out.counts(
            "tunnel_drops",
            "Packets of the tunnel that were dropped, as many as on the wire",
            dropped,
        )?;
        let forgotten = self.traffic.iter().map(|counters| ([("table", "connections")], counters.forgotten));
        let help = "Entries that a full table of the proxy has forgotten, at least";
        out.counts("proxy_table_forgotten", help, forgotten)?;
        let used = self.tables.iter().map(|usage| ([("table", usage.table)], usage.used));
        out.values("proxy_table_entries", "Entries in use in a table of the proxy", used)?;
        let capacity = self.tables.iter().map(|usage| ([("table", usage.table)], usage.capacity));
        out.values("proxy_table_capacity", "Entries there is room for in a table of the proxy", capacity)
    }

    /// Filter and proxy may drop for one and the same reason, and a family has one row of each.
    fn drops(&self) -> BTreeMap<&str, u64> {
        let mut drops = BTreeMap::new();
        let proxy = self.traffic.iter().flat_map(|c| c.drops.iter().map(|(reason, n)| (*reason, *n)));
        for (reason, count) in proxy.chain(self.filtered.iter().map(|(reason, n)| (reason.as_str(), *n))) {
            *drops.entry(reason).or_default() += count;
        }
        drops
    }
}
