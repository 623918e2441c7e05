//! Capacities of the tables, and the flags that set them.

use std::path::Path;

use aya::maps::MapData;
use balancing_abi::sockets::{index, known, maps, reverse_nat};

use crate::layout::Layout;

/// A flag and its value.
pub(crate) type Setting = (&'static str, u32);

/// Table, flag, capacity.
type Flag = (&'static str, &'static str, fn(&Sizes) -> u32);

/// Tables whose capacity a flag sets, with the flag and the capacity.
const FLAGS: [Flag; 7] = [
    (maps::FRONTENDS, "--max-frontends", |sizes| sizes.frontends),
    (maps::BACKENDS, "--max-backends", |sizes| sizes.backends),
    (maps::CONNECTIONS, "--max-connections", |sizes| sizes.connections),
    (maps::AFFINITY, "--max-affinity", |sizes| sizes.affinity),
    (maps::SKIPS, "--max-skips", |sizes| sizes.skips),
    (maps::QOS, "--max-qos-policies", |sizes| sizes.qos),
    (maps::POLICIES, "--max-policy-names", |sizes| sizes.policies),
];

/// Capacities of the tables. A pinned table keeps the capacity it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Layers of all frontends; [`Sizes::MAX_FRONTENDS`] at most.
    pub frontends: u32,
    /// Ids that layers of frontends are given, one after the other: at least as many as `frontends`. The more there are beyond, the
    /// later one is used again ([`reverse_nat::next_generation`]).
    pub ids: u32,
    /// Slots of all backend sets; a lone backend without limit and affinity takes none.
    pub backends: u32,
    /// Connected sockets that keep their frontend's name; a power of two, at least 65,536.
    pub connections: u32,
    /// Clients with session affinity.
    pub affinity: u32,
    /// Exempt clients times policies.
    pub skips: u32,
    /// Policies with a QoS limit.
    pub qos: u32,
    /// Policies that commands can name without an agent.
    pub policies: u32,
}

impl Sizes {
    /// Largest number of frontends.
    pub const MAX_FRONTENDS: u32 = index::MAX_SLOTS - maps::size::SPARE - 1;

    /// The usual number of ids for a number of frontends.
    #[must_use]
    pub const fn ids(frontends: u32) -> u32 {
        frontends + maps::size::SPARE
    }

    /// Slots of frontends: the first is never used, and some wait for a grace period.
    pub(crate) fn frontend_slots(&self) -> u32 {
        1 + self.frontends + maps::size::SPARE
    }

    /// The capacities of the pinned tables, 0 where one cannot be asked.
    pub(crate) fn of(layout: &Layout) -> Self {
        let capacity = |name| capacity(&layout.maps().join(name)).unwrap_or(0);
        Self {
            frontends: capacity(maps::FRONTENDS).saturating_sub(1 + maps::size::SPARE),
            ids: capacity(maps::NAMES),
            backends: capacity(maps::BACKENDS),
            connections: capacity(maps::CONNECTIONS),
            affinity: capacity(maps::AFFINITY),
            skips: capacity(maps::SKIPS),
            qos: capacity(maps::QOS),
            policies: capacity(maps::POLICIES),
        }
    }

    /// The flag that sets the capacity of a table.
    #[must_use]
    pub fn flag(table: &str) -> Option<&'static str> {
        FLAGS.iter().find(|(name, ..)| *name == table).map(|(_, flag, _)| *flag)
    }

    /// The capacities with the flags that set them.
    pub(crate) fn settings(&self) -> [Setting; 7] {
        FLAGS.map(|(_, flag, capacity)| (flag, capacity(self)))
    }

    /// The capacity of a table that is a setting, or follows from one.
    pub(crate) fn entries(&self, name: &str, cpus: u32) -> Option<u32> {
        match name {
            maps::INDEX => Some(index::buckets(self.frontends) / index::BLOCK),
            maps::KNOWN => Some(known::BLOCKS),
            maps::RANDOM => Some(cpus),
            maps::FRONTENDS => Some(self.frontend_slots()),
            maps::NAMES | maps::RARE => Some(self.ids),
            maps::REDIRECTED => Some(self.ids.saturating_mul(cpus)),
            maps::BACKENDS => Some(self.backends),
            maps::CONNECTIONS => Some(self.connections.max(reverse_nat::MIN_SLOTS)),
            maps::AFFINITY => Some(self.affinity),
            maps::SKIPS => Some(self.skips),
            maps::QOS => Some(self.qos),
            maps::POLICIES => Some(self.policies),
            _ => None,
        }
    }
}

fn capacity(pin: &Path) -> Option<u32> {
    MapData::from_pin(pin).and_then(|map| map.info()).ok().map(|info| info.max_entries())
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frontends: maps::size::FRONTENDS,
            ids: Self::ids(maps::size::FRONTENDS),
            backends: maps::size::BACKENDS,
            connections: maps::size::CONNECTIONS,
            affinity: maps::size::AFFINITY,
            skips: maps::size::SKIPS,
            qos: maps::size::QOS,
            policies: maps::size::POLICIES,
        }
    }
}
