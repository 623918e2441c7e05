//! Reads the tables back: for an agent that takes over, and for commands while no agent runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use balancing_abi::sockets::{Frontend, LAYERS, SetHead, control, flags, maps, reverse_nat, stat};

use super::{TableError, alloc::Range, codec, pins::Pins};
use crate::{
    layout::Layout,
    model::{Backend, ClientId, Clients, FrontendKey, Layer, PolicyName},
    sizes::Sizes,
};

/// How often a reader begins again when the owner has used memory again meanwhile: every 2,000 changes or so.
const TRIES: u32 = 100;

/// One layer as found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) slot: u32,
    pub(crate) set: Option<Range>,
    pub(crate) backends: Vec<(u32, Backend)>,
    pub(crate) layer: Layer,
}

/// Everything in the tables.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    pub(crate) frontends: BTreeMap<FrontendKey, Vec<Found>>,
    /// Buckets that lead to what makes no sense.
    pub(crate) broken: BTreeSet<u32>,
    pub(crate) skips: BTreeSet<(u32, ClientId)>,
}

pub(crate) fn dump(pins: &Pins) -> Result<Dump, TableError> {
    let mut dump = Dump { skips: pins.skips()?, ..Dump::default() };
    for bucket in 0..pins.index.len() {
        let found: Option<Vec<_>> = pins
            .index
            .chain(&pins.frontends, bucket)
            .into_iter()
            .map(|(slot, frontend)| layers(pins, slot, frontend, &dump.skips))
            .collect();
        match found {
            Some(found) => dump.frontends.extend(found),
            None => drop(dump.broken.insert(bucket)),
        }
    }
    Ok(dump)
}

/// All layers of a frontend; `None` when they make no sense.
fn layers(
    pins: &Pins,
    mut slot: u32,
    mut frontend: Frontend,
    skips: &BTreeSet<(u32, ClientId)>,
) -> Option<(FrontendKey, Vec<Found>)> {
    let key = codec::plain_key(&frontend.key)?;
    let mut found = Vec::with_capacity(1);
    for _ in 0..LAYERS {
        found.push(layer(pins, slot, &frontend, skips, &key)?);
        slot = frontend.next;
        if slot == 0 {
            return Some((key, found));
        }
        frontend = pins.frontends.read(slot)?;
    }
    None
}

/// Decodes a layer; `None` when it makes no sense.
fn layer(
    pins: &Pins,
    slot: u32,
    frontend: &Frontend,
    skips: &BTreeSet<(u32, ClientId)>,
    key: &FrontendKey,
) -> Option<Found> {
    let id = reverse_nat::id(frontend.reference);
    let generation = pins.generation(id)?;
    if reverse_nat::reference(id, generation) != frontend.reference
        || codec::plain_key(&frontend.key)? != *key
    {
        return None;
    }
    let (set, head, backends) = backends(pins, frontend)?;
    if backends.iter().any(|(_, b)| b.address.is_ipv4() != key.address.is_ipv4()) {
        return None;
    }
    let detail = frontend.target.detail;
    let skip = skips.iter().filter(|(s, _)| detail & flags::SKIP != 0 && *s == frontend.service_id);
    let qos_limit = NonZeroU32::new(head.qos_limit);
    let mut plain: Vec<_> = backends.iter().map(|(_, b)| *b).collect();
    plain.sort_unstable();
    let layer = Layer {
        service_id: frontend.service_id,
        backends: plain,
        clients: clients(detail),
        qos_limit,
        window: if qos_limit.is_some() { pins.window_owner(head.window)? } else { 0 },
        affinity: NonZeroU32::new(head.affinity_seconds),
        reject: detail & flags::REJECT != 0,
        skip: skip.map(|(_, client)| *client).collect(),
    };
    Some(Found { id, generation, slot, set, backends, layer })
}

type Backends = (Option<Range>, SetHead, Vec<(u32, Backend)>);

/// Range, head and content of a layer's set, or its lone backend.
fn backends(pins: &Pins, frontend: &Frontend) -> Option<Backends> {
    let target = &frontend.target;
    let no_head = SetHead { qos_limit: 0, window: 0, affinity: 0, affinity_seconds: 0, pad: [0; 4] };
    if target.detail & flags::SET == 0 {
        let weight = u32::from(target.detail & flags::DRAINED == 0);
        let lone = (frontend.count == 1).then(|| (target.id, codec::backend(target, weight)));
        return Some((None, no_head, lone.into_iter().collect()));
    }
    let first = target.address[0];
    let has_head = target.detail & flags::HEAD != 0;
    let head = match has_head {
        true => codec::slot_as_head(&pins.backends.read(first.checked_sub(1)?)?),
        false => no_head,
    };
    let set = Range { first: first - u32::from(has_head), count: frontend.count + u32::from(has_head) };
    let slots = first..first.checked_add(frontend.count)?;
    if slots.end > pins.backends.len() {
        return None;
    }
    let read = slots.map(|index| {
        let target = pins.backends.read(index)?.target;
        Some((target.id, codec::backend(&target, u32::from(target.detail))))
    });
    Some((Some(set), head, read.collect::<Option<_>>()?))
}

fn clients(bits: u16) -> Clients {
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
    /// What found no room or had to give way; `None` where only a running agent knows.
    pub dropped: Option<u64>,
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
        Ok(Self { pins: Pins::open(layout, false)?, sizes: Sizes::of(layout) })
    }

    /// Reads while the owner may write: what was read is whole when no memory was used again meanwhile.
    fn steadily<T>(&self, read: impl Fn() -> Result<T, TableError>) -> Result<T, TableError> {
        for _ in 0..TRIES {
            let before = self.pins.epoch();
            let result = read()?;
            std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
            if self.pins.epoch() == before {
                return Ok(result);
            }
        }
        Err(TableError::Restless)
    }

    /// Every layer of every frontend.
    ///
    /// # Errors
    /// A refused operation.
    pub fn layers(&self) -> Result<Vec<LayerView>, TableError> {
        let dump = self.steadily(|| dump(&self.pins))?;
        let found = dump.frontends.into_iter().flat_map(|(key, layers)| {
            (0..).zip(layers).map(move |(layer_number, found)| (key, layer_number, found))
        });
        let view = |(key, layer_number, found): (FrontendKey, u8, Found)| {
            let counters = self.pins.counters(found.id);
            LayerView { key, layer_number, layer: found.layer, backends: found.backends, counters }
        };
        Ok(found.map(view).collect())
    }

    /// The layer that decides first for one frontend, if it has one.
    ///
    /// # Errors
    /// A refused operation.
    pub fn layer(&self, key: &FrontendKey) -> Result<Option<Layer>, TableError> {
        let skips = self.pins.skips()?;
        self.steadily(|| {
            let Some((slot, frontend)) = self.pins.index.find(&self.pins.frontends, &codec::key(key)) else {
                return Ok(None);
            };
            let found = layers(&self.pins, slot, frontend, &skips);
            Ok(found.and_then(|(_, found)| found.into_iter().next()).map(|found| found.layer))
        })
    }

    /// The policies by service id.
    ///
    /// # Errors
    /// A refused operation.
    pub fn policies(&self) -> Result<BTreeMap<u32, PolicyName>, TableError> {
        self.pins.policies()
    }

    /// How full the tables are.
    ///
    /// # Errors
    /// A refused operation.
    pub fn usage(&self) -> Result<Vec<Usage>, TableError> {
        let dump = self.steadily(|| dump(&self.pins))?;
        let layers = || dump.frontends.values().flatten();
        let used = Used {
            layers: layers().count(),
            slots: layers().filter_map(|found| found.set).map(|set| set.count as usize).sum(),
            skips: dump.skips.len(),
            windows: self.pins.windows().iter().filter(|owner| **owner != 0).count(),
            policies: self.pins.policies()?.len(),
        };
        usage(&self.pins, &self.sizes, &used, |_table| None)
    }

    /// Records of connected sockets that gave way to younger ones.
    ///
    /// # Errors
    /// A refused operation.
    pub fn overwritten(&self) -> Result<u64, TableError> {
        self.pins.stat(stat::CONN_OVERWRITTEN)
    }

    /// Whether the programs write events.
    #[must_use]
    pub fn events(&self) -> bool {
        self.pins.has_control(control::EVENTS)
    }

    /// Whether nothing is redirected, whatever the tables hold ([`super::stop`]).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.pins.has_control(control::STOPPED)
    }

    /// Events that found the buffer full.
    ///
    /// # Errors
    /// A refused operation.
    pub fn events_lost(&self) -> Result<u64, TableError> {
        self.pins.stat(stat::EVENTS_LOST)
    }

    /// Errors per program, in the order of [`maps::PROGRAMS`].
    ///
    /// # Errors
    /// A refused operation.
    pub fn hook_errors(&self) -> Result<Vec<(&'static str, u64)>, TableError> {
        hook_errors(&self.pins)
    }
}

/// What the user side counts itself.
pub(super) struct Used {
    pub(super) layers: usize,
    pub(super) slots: usize,
    pub(super) skips: usize,
    pub(super) windows: usize,
    pub(super) policies: usize,
}

/// The rows of `usage`; `refused` tells how often a table had no room.
pub(super) fn usage(
    pins: &Pins,
    sizes: &Sizes,
    used: &Used,
    refused: impl Fn(&str) -> Option<u64>,
) -> Result<Vec<Usage>, TableError> {
    let row =
        |name, used: usize, capacity| Usage { name, used: used as u64, capacity, dropped: refused(name) };
    let connections = Usage {
        name: maps::CONNECTIONS,
        used: pins.stat(stat::CONN_USED)?,
        capacity: sizes.connections,
        dropped: Some(pins.stat(stat::CONN_OVERWRITTEN)?),
    };
    let clients = pins.affinity_clients()?;
    let gave_way = pins.stat(stat::AFFINITY_NEW)?.saturating_sub(clients);
    let affinity = Usage {
        name: maps::AFFINITY,
        used: clients,
        capacity: sizes.affinity,
        dropped: Some(gave_way + pins.stat(stat::AFFINITY_REFUSED)?),
    };
    Ok(vec![
        row(maps::FRONTENDS, used.layers, sizes.frontends),
        row(maps::BACKENDS, used.slots, sizes.backends),
        connections,
        affinity,
        row(maps::SKIPS, used.skips, sizes.skips),
        row(maps::QOS, used.windows, sizes.qos),
        row(maps::POLICIES, used.policies, sizes.policies),
    ])
}

pub(super) fn hook_errors(pins: &Pins) -> Result<Vec<(&'static str, u64)>, TableError> {
    let programs = maps::PROGRAMS.into_iter().zip(stat::ERRORS..);
    programs.map(|(name, index)| Ok((name, pins.stat(index)?))).collect()
}
