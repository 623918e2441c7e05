//! Reads the tables back: for an agent that takes over, and for commands while no agent runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use balancing_abi::{Frontend, conn, flags, maps, stat};

use super::{TableError, alloc::Range, codec, codec::Key, pins::Pins};
use crate::{
    layout::Layout,
    loader::Sizes,
    model::{Backend, ClientId, Clients, FrontendKey, Layer, PolicyName},
    sys::Raw,
};

/// One layer as found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) set: Option<Range>,
    pub(crate) backends: Vec<(u32, Backend)>,
    pub(crate) layer: Layer,
}

/// Everything in the tables.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    pub(crate) layers: BTreeMap<(FrontendKey, u8), Found>,
    /// Entries that make no sense: damaged, or second layers that nothing leads to.
    pub(crate) broken: Vec<Key>,
    pub(crate) skips: BTreeSet<(u32, ClientId)>,
    pub(crate) windows: BTreeSet<u32>,
}

pub(crate) fn dump(pins: &Pins) -> Result<Dump, TableError> {
    let mut dump = Dump { skips: pins.skips()?, windows: pins.windows()?, ..Dump::default() };
    let failed = |table| {
        move |source| TableError::Operation {
            operation: "read",
            table,
            object: "all entries".to_owned(),
            source: Box::new(source),
        }
    };
    let mut rows = Vec::new();
    for row in pins.frontends4.iter() {
        let (Raw(key), Raw(entry)) = row.map_err(failed(maps::FRONTENDS4))?;
        rows.push((Key::V4(key), entry.frontend));
    }
    for row in pins.frontends6.iter() {
        let (Raw(key), Raw(entry)) = row.map_err(failed(maps::FRONTENDS6))?;
        rows.push((Key::V6(key), entry.frontend));
    }
    let mut leads_on = BTreeSet::new();
    for (key, mut entry) in rows {
        if key.sum(&entry) != entry.check {
            // Read while it was written; alone it is read whole.
            entry = pins.frontend(&key)?.unwrap_or(entry);
        }
        let plain = key.plain().filter(|(_, layer)| *layer <= 1 && key.sum(&entry) == entry.check);
        match (plain, plain.and_then(|at| found(pins, &entry, &dump.skips, at.0).transpose())) {
            (Some(at), Some(found)) => {
                if entry.flags & flags::NEXT != 0 {
                    leads_on.insert(at.0);
                }
                dump.layers.insert(at, found?);
            }
            _ => dump.broken.push(key),
        }
    }
    let orphans: Vec<_> =
        dump.layers.keys().filter(|(key, layer)| *layer == 1 && !leads_on.contains(key)).copied().collect();
    for at in orphans {
        dump.layers.remove(&at);
        dump.broken.push(Key::new(&at.0, at.1));
    }
    Ok(dump)
}

/// Decodes an entry; `None` when it names slots that the table does not have.
fn found(
    pins: &Pins,
    entry: &Frontend,
    skips: &BTreeSet<(u32, ClientId)>,
    key: FrontendKey,
) -> Result<Option<Found>, TableError> {
    let Ok(generation) = pins.generation(entry.id) else { return Ok(None) };
    if conn::reference(entry.id, generation) != conn::reference(entry.id, u32::from(entry.target.generation))
    {
        return Ok(None);
    }
    let mut set = None;
    let mut backends = Vec::new();
    match entry.count {
        0 => {}
        1 => backends.push((entry.target.id, lone(entry))),
        count => {
            let first = entry.target.address[0];
            set = Some(Range { first, count });
            for index in first..first.saturating_add(count) {
                let Ok(Raw(slot)) = pins.backends.get(&index, 0) else { return Ok(None) };
                backends.push((slot.id, codec::backend(&slot)));
            }
        }
    }
    let mut plain: Vec<_> = backends.iter().map(|(_, b)| *b).collect();
    plain.sort_unstable();
    if plain.iter().any(|b| b.address.is_ipv4() != key.address.is_ipv4()) {
        return Ok(None);
    }
    let skip = skips.iter().filter(|(s, _)| entry.flags & flags::SKIP != 0 && *s == entry.service_id);
    let layer = Layer {
        service_id: entry.service_id,
        backends: plain,
        clients: clients(entry.flags),
        qos_limit: NonZeroU32::new(entry.qos_limit),
        affinity: NonZeroU32::new(entry.affinity),
        reject: entry.flags & flags::REJECT != 0,
        skip: skip.map(|(_, client)| *client).collect(),
    };
    Ok(Some(Found { id: entry.id, generation, set, backends, layer }))
}

fn lone(entry: &Frontend) -> Backend {
    Backend {
        address: codec::address(&entry.target.address),
        port: u16::from_be(entry.target.port),
        weight: u32::from(entry.flags & flags::DRAINED == 0),
    }
}

fn clients(bits: u32) -> Clients {
    match (bits & flags::PODS != 0, bits & flags::HOST != 0) {
        (true, false) => Clients::Pods,
        (false, true) => Clients::Host,
        _ => Clients::All,
    }
}

/// What happened at a frontend since it was programmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections and datagrams sent to a backend.
    pub redirected: u64,
    /// Not redirected because the QoS limit was reached.
    pub qos_overflow: u64,
    /// Not redirected because no backend took them.
    pub no_backend: u64,
    /// Not redirected because the client is exempt.
    pub skipped: u64,
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Name of the map.
    pub name: &'static str,
    /// Entries in use.
    pub used: u64,
    /// Entries there is room for.
    pub capacity: u32,
}

/// One layer for readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerView {
    /// What was dialled.
    pub key: FrontendKey,
    /// 0 = decides first.
    pub layer_number: u8,
    /// The decision.
    pub layer: Layer,
    /// Backends with their ids.
    pub backends: Vec<(u32, Backend)>,
    /// Since it was programmed.
    pub counters: Counters,
}

/// Looks at the tables without changing them.
pub struct Reader {
    pins: Pins,
    sizes: Sizes,
}

impl Reader {
    /// Opens the pins of a layout.
    ///
    /// # Errors
    /// A pin that is missing or cannot be opened.
    pub fn open(layout: &Layout) -> Result<Self, TableError> {
        let pins = Pins::open(layout)?;
        let capacity = |name| crate::loader::capacity(layout, name);
        let sizes = Sizes {
            frontends: capacity(maps::NAMES),
            backends: capacity(maps::BACKENDS),
            connections: capacity(maps::CONNECTIONS),
        };
        Ok(Self { pins, sizes })
    }

    /// Every layer of every frontend.
    ///
    /// # Errors
    /// A refused operation.
    pub fn layers(&self) -> Result<Vec<LayerView>, TableError> {
        let dump = dump(&self.pins)?;
        dump.layers
            .into_iter()
            .map(|((key, layer_number), found)| {
                let counters = self.pins.counters(found.id)?;
                Ok(LayerView { key, layer_number, layer: found.layer, backends: found.backends, counters })
            })
            .collect()
    }

    /// The layer that decides first for one frontend, if it has one.
    ///
    /// # Errors
    /// A refused operation.
    pub fn layer(&self, key: &FrontendKey) -> Result<Option<Layer>, TableError> {
        let Some(entry) = self.pins.frontend(&Key::new(key, 0))? else { return Ok(None) };
        Ok(found(&self.pins, &entry, &self.pins.skips()?, *key)?.map(|found| found.layer))
    }

    /// The policies by service id.
    ///
    /// # Errors
    /// A refused operation.
    pub fn policies(&self) -> Result<BTreeMap<u32, PolicyName>, TableError> {
        self.pins.policies()
    }

    /// How full the tables are; `overwritten` connections lost their frontend's name.
    ///
    /// # Errors
    /// A refused operation.
    pub fn usage(&self) -> Result<Vec<Usage>, TableError> {
        let dump = dump(&self.pins)?;
        let slots = dump.layers.values().filter_map(|f| f.set).map(|set| set.count as usize).sum();
        usage(&self.pins, self.sizes, [dump.layers.len(), slots, dump.skips.len(), dump.windows.len()])
    }

    /// Records of connected sockets that gave way to younger ones.
    ///
    /// # Errors
    /// A refused operation.
    pub fn overwritten(&self) -> Result<u64, TableError> {
        self.pins.stat(stat::CONN_OVERWRITTEN)
    }

    /// Errors per program, in the order of [`maps::PROGRAMS`].
    ///
    /// # Errors
    /// A refused operation.
    pub fn hook_errors(&self) -> Result<Vec<(&'static str, u64)>, TableError> {
        hook_errors(&self.pins)
    }
}

/// The rows of `usage`, from the numbers of layers, slots, exempt clients and QoS windows.
pub(super) fn usage(
    pins: &Pins,
    sizes: Sizes,
    [layers, slots, skips, windows]: [usize; 4],
) -> Result<Vec<Usage>, TableError> {
    let row = |name, used, capacity| Usage { name, used, capacity };
    Ok(vec![
        row("frontends", layers as u64, sizes.frontends),
        row(maps::BACKENDS, slots as u64, sizes.backends),
        row(maps::CONNECTIONS, pins.stat(stat::CONN_USED)?, sizes.connections),
        row(maps::SKIPS, skips as u64, maps::size::SKIPS),
        row(maps::QOS, windows as u64, maps::size::QOS),
    ])
}

pub(super) fn hook_errors(pins: &Pins) -> Result<Vec<(&'static str, u64)>, TableError> {
    let programs = maps::PROGRAMS.into_iter().zip(stat::ERRORS..);
    programs.map(|(name, index)| Ok((name, pins.stat(index)?))).collect()
}
