//! The tables: what is programmed, and how it changes without any connection seeing half a change.
//!
//! What is in force never changes. A change writes new slots for the layers that differ and their backends, switches the one
//! word of the index that names the frontend ([`index`]), and uses the old slots again only after a grace period.
//! The id of a layer stays as long as the frontend has a layer of that depth, so counters, affinity and names of connections
//! survive changes of policies and backends.
//!
//! There is one [`Tables`] per host: the agent's. [`Reader`] looks at the same pins from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use aya::maps::MapError;
use balancing_abi::sockets::{control, maps};

pub(crate) mod alloc;
pub(crate) mod codec;
pub mod events;
mod index;
mod keep;
mod observe;
pub(crate) mod pins;
mod read;
mod rows;
mod stage;
mod tally;

pub use keep::MapPins;
pub use read::{Counters, LayerView, Reader, Usage};

use self::{
    alloc::{BackendIds, Numbers, Range, Ranges, Slots},
    pins::Pins,
    read::Found,
    rows::Rows,
    tally::Tally,
};
use crate::{
    layout::Layout,
    model::{ClientId, Entry, FrontendKey, PolicyName},
    sizes::Sizes,
    sys::wait_for_programs,
};

/// Sets, slots and ids that wait for a grace period before the wait is worth its time.
const RETIRED_ENOUGH: usize = maps::size::SPARE as usize / 2;
/// Ids that are taken from their old names in one go: each go waits for a grace period.
const UNNAMED_AT_ONCE: usize = 256;

/// Why a table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No room.
    #[error(
        "table {table} is full ({capacity} entries): {object} does not fit; raise {setting} and run \
         `balancing-agent cleanup` before the next start (it ends all redirection until the agent is back), or \
         remove policies"
    )]
    Full {
        /// The table.
        table: &'static str,
        /// Its capacity.
        capacity: u32,
        /// The flag that sets it.
        setting: &'static str,
        /// What did not fit.
        object: String,
    },
    /// The kernel refused an operation.
    #[error("cannot {operation} {object} in table {table}: {source}")]
    Operation {
        /// `read`, `write` or `delete`.
        operation: &'static str,
        /// The table.
        table: &'static str,
        /// Key or purpose.
        object: String,
        /// Why.
        source: Box<MapError>,
    },
    /// A pin cannot be opened.
    #[error("cannot open {path}: {source}", path = path.display())]
    Open {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: Box<MapError>,
    },
    /// More layers than programs look at.
    #[error("{object} has {layers} layers, at most {} can be programmed", crate::model::LAYERS)]
    Layers {
        /// The frontend.
        object: FrontendKey,
        /// Number of its layers.
        layers: usize,
    },
    /// A reader met an owner that changes the tables faster than they can be read.
    #[error("the tables change faster than they can be read: try again")]
    Restless,
}

impl TableError {
    pub(crate) fn full(table: &'static str, capacity: u32, object: impl ToString) -> Self {
        let setting = match table {
            maps::BACKENDS => "--max-backends",
            maps::SKIPS => "--max-skips",
            maps::QOS => "--max-qos-policies",
            maps::POLICIES => "--max-policy-names",
            _ => "--max-frontends",
        };
        Self::Full { table, capacity, setting, object: object.to_string() }
    }

    /// Says which policy did not fit, where only its number was known.
    fn of_policy(self, policy: Option<&PolicyName>) -> Self {
        match (self, policy) {
            (Self::Full { table, capacity, .. }, Some(policy)) => Self::full(table, capacity, policy),
            (error, _) => error,
        }
    }
}

/// Ends redirection by whatever programs use these tables, on every cgroup at once, until [`Tables::resume`]. They go on telling
/// applications what they dialled. The caller is alone: no agent is at work.
///
/// # Errors
/// There are no tables, or they cannot be opened.
pub fn stop(layout: &Layout) -> Result<(), TableError> {
    let mut control = pins::memory(layout, maps::CONTROL, true)?;
    pins::set_control(&mut control, control::STOPPED, true);
    Ok(())
}

/// One layer as it stands in the kernel.
#[derive(Clone, Copy, Debug)]
struct Placed {
    id: u32,
    generation: u32,
    slot: u32,
    set: Option<Range>,
}

/// What no table names any more; programs that started before may still look at it.
#[derive(Debug, Default)]
struct Retired {
    slots: Vec<u32>,
    sets: Vec<Range>,
    ids: Vec<u32>,
}

impl Retired {
    fn len(&self) -> usize {
        self.slots.len() + self.sets.len() + self.ids.len()
    }
}

/// The writer of all tables.
pub struct Tables {
    pins: Pins,
    entries: BTreeMap<FrontendKey, Entry>,
    /// The layers of each entry in the kernel.
    placed: BTreeMap<FrontendKey, Vec<Placed>>,
    ids: Numbers,
    /// Ids that frontends have: layers in force, and those that are being written.
    live: u32,
    /// Ids that no reference names any more: ready for a new name.
    unnamed: Vec<u32>,
    backend_ids: BackendIds,
    slots: Slots,
    sets: Ranges,
    retired: Retired,
    rows: Rows,
    /// Clients that are exempt whatever the policy.
    exempt: BTreeSet<ClientId>,
    tally: Tally,
    policies: BTreeMap<u32, PolicyName>,
    sizes: Sizes,
    /// Attempts that found a table full, since the start.
    refused: BTreeMap<&'static str, u64>,
}

impl Tables {
    /// Opens the pinned tables and takes over what they hold. Where redirection was ended ([`stop`]) they are emptied: what they hold
    /// may be from long before, and must not come back with [`Self::resume`].
    ///
    /// # Errors
    /// A pin that cannot be opened or read.
    pub fn open(layout: &Layout, sizes: Sizes) -> Result<Self, TableError> {
        let pins = Pins::open(layout, true)?;
        let mut tables = Self {
            policies: pins.policies()?,
            pins,
            entries: BTreeMap::new(),
            placed: BTreeMap::new(),
            ids: Numbers::new(0..sizes.ids),
            live: 0,
            unnamed: Vec::new(),
            backend_ids: BackendIds::default(),
            slots: Slots::new(sizes.frontend_slots()),
            sets: Ranges::new(sizes.backends),
            retired: Retired::default(),
            rows: Rows::default(),
            exempt: BTreeSet::new(),
            tally: Tally::default(),
            sizes,
            refused: BTreeMap::new(),
        };
        tables.adopt()?;
        if tables.pins.has_control(control::STOPPED) {
            for key in tables.entries.keys().copied().collect::<Vec<_>>() {
                tables.remove(&key)?;
            }
            tables.reclaim();
        }
        Ok(tables)
    }

    /// What is programmed, in normal form ([`Entry::normalized`]).
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<FrontendKey, Entry> {
        &self.entries
    }

    /// Takes over the content of the pins: what an earlier agent programmed stays in force.
    fn adopt(&mut self) -> Result<(), TableError> {
        let dump = read::dump(&self.pins)?;
        for bucket in &dump.broken {
            self.pins.index.clear(*bucket);
        }
        for (key, found) in dump.frontends {
            let mut layers = Vec::with_capacity(found.len());
            let mut placed = Vec::with_capacity(found.len());
            for found in found {
                self.ids.take(found.id);
                self.live += 1;
                self.slots.take(found.slot);
                for (id, backend) in &found.backends {
                    self.backend_ids.take(*id, backend, key.protocol);
                }
                if let Some(set) = found.set {
                    self.sets.take(set);
                }
                let Found { id, generation, slot, set, layer, .. } = found;
                placed.push(Placed { id, generation, slot, set });
                layers.push(layer);
            }
            self.placed.insert(key, placed);
            self.entries.insert(key, Entry { layers });
        }
        self.exempt =
            dump.skips.iter().filter(|(service_id, _)| *service_id == 0).map(|(_, client)| *client).collect();
        self.backend_ids.go_on(self.pins.last_backend_id());
        // Connections may still refer to ids that no frontend has any more.
        self.ids.settle(self.pins.ids_used());
        self.sets.settle();
        self.rows = Rows::adopt(&self.pins, &self.entries, &dump.skips);
        // What an earlier agent retired is free here, but programs may still look at it.
        wait_for_programs();
        self.pins.next_epoch();
        self.rows.settle(&mut self.pins);
        Ok(())
    }

    /// Programs a frontend, new or changed, with all its layers, atomically for every connection.
    ///
    /// # Errors
    /// A full table or a refused operation; then the frontend is as it was before.
    pub fn publish(&mut self, key: FrontendKey, entry: &Entry) -> Result<(), TableError> {
        let entry = entry.normalized();
        if self.entries.get(&key) == Some(&entry) {
            return Ok(());
        }
        if entry.layers.is_empty() {
            return self.remove(&key);
        }
        let published = self.stage(&key, &entry).and_then(|staged| self.switch(key, entry, staged));
        self.note_refusal(&published);
        self.reclaim_if_worthwhile();
        published
    }

    /// Takes a frontend out: its connections go where they are dialled from now on.
    ///
    /// # Errors
    /// None at present; callers treat it like [`Self::publish`].
    pub fn remove(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        self.pins.unlink(key);
        let (entry, placed) = (self.entries.remove(key), self.placed.remove(key));
        for (layer, placed) in entry.iter().flat_map(|entry| &entry.layers).zip(placed.unwrap_or_default()) {
            self.retire(key, layer, &placed);
            self.give_up_id(layer, placed.id);
        }
        self.reclaim_if_worthwhile();
        Ok(())
    }

    fn note_refusal(&mut self, result: &Result<(), TableError>) {
        if let Err(TableError::Full { table, .. }) = result {
            *self.refused.entry(table).or_default() += 1;
        }
    }

    fn reclaim_if_worthwhile(&mut self) {
        if self.retired.len() >= RETIRED_ENOUGH {
            self.reclaim();
        }
    }

    /// Waits for a grace period and frees what was retired before it.
    fn reclaim(&mut self) {
        if self.retired.len() == 0 && self.rows.is_settled() {
            return;
        }
        wait_for_programs();
        self.pins.next_epoch();
        let Retired { slots, sets, ids } = std::mem::take(&mut self.retired);
        slots.into_iter().for_each(|slot| self.slots.free(slot));
        sets.into_iter().for_each(|set| self.sets.free(set));
        ids.into_iter().for_each(|id| self.ids.free(id));
        self.rows.settle(&mut self.pins);
    }

    /// Clients whose connections are never redirected, whatever the policy.
    ///
    /// # Errors
    /// A refused operation; those that were written are exempt.
    pub fn set_exempt(&mut self, clients: &BTreeSet<ClientId>) -> Result<(), TableError> {
        let mut result = Ok(());
        for client in clients.difference(&self.exempt.clone()) {
            let mut added = self.pins.add_skip(0, *client);
            if matches!(added, Err(TableError::Full { .. })) {
                // Rows of policies that are gone may still wait for a grace period.
                self.reclaim();
                added = self.pins.add_skip(0, *client);
            }
            self.note_refusal(&added);
            match added {
                Ok(()) => drop(self.exempt.insert(*client)),
                Err(error) => result = Err(error),
            }
        }
        // Also after an error: those that were written are exempt.
        self.pins.set_control(control::EXEMPT, !clients.is_empty());
        for client in self.exempt.clone().difference(clients) {
            self.pins.remove_skip(0, *client)?;
            self.exempt.remove(client);
        }
        result
    }

    /// Writes down which policy is behind a service id, for commands that run without an agent.
    ///
    /// # Errors
    /// A full table or a refused operation; nothing but those commands suffers.
    pub fn set_policy(&mut self, service_id: u32, policy: Option<&PolicyName>) -> Result<(), TableError> {
        if self.policies.get(&service_id) == policy {
            return Ok(());
        }
        let written = self.pins.set_policy(service_id, policy);
        self.note_refusal(&written);
        written?;
        match policy {
            Some(policy) => self.policies.insert(service_id, policy.clone()),
            None => self.policies.remove(&service_id),
        };
        Ok(())
    }

    /// The policies written down.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<u32, PolicyName> {
        &self.policies
    }

    /// Redirects again where [`stop`] had ended it: the tables hold what is wanted.
    pub fn resume(&mut self) {
        self.pins.set_control(control::STOPPED, false);
    }

    /// Switches events on or off.
    ///
    /// # Errors
    /// None at present.
    pub fn set_events(&mut self, on: bool) -> Result<(), TableError> {
        self.pins.set_control(control::EVENTS, on);
        Ok(())
    }
}
