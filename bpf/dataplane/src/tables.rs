//! The tables: what is programmed, and how it changes without any connection seeing half a change.
//!
//! A backend set never changes once an entry names it. A change writes a new set, changes the entry in its place, and
//! frees the old set only after a grace period; a lone backend lives in the entry itself. Ids of frontends stay as
//! long as the frontend, so counters, affinity and names of connections survive every change.
//!
//! There is one [`Tables`] per host: the agent's. [`Reader`] looks at the same pins from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use aya::maps::MapError;
use balancing_abi::{Frontend, control, maps};

mod alloc;
mod codec;
pub mod events;
mod observe;
mod pins;
mod read;
mod rows;
mod tally;

pub use read::{Counters, LayerView, Reader, Usage};

use self::{
    alloc::{BackendIds, FrontendIds, Range, Ranges},
    codec::Key,
    pins::Pins,
    rows::Rows,
    tally::Tally,
};
use crate::{
    layout::Layout,
    loader::Sizes,
    model::{ClientId, Entry, FrontendKey, Layer, PolicyName},
    sys::wait_for_programs,
};

/// Sets and ids that wait for a grace period before the wait is worth its time.
const RETIRED_ENOUGH: usize = 4096;

/// Why a table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No room.
    #[error(
        "table {table} is full ({capacity} entries) while programming {object}: raise {setting} and run \
         `balancing-agent cleanup` before the next start, or program less"
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
}

/// One layer as it stands in the kernel.
#[derive(Clone, Debug)]
struct Placed {
    id: u32,
    generation: u32,
    set: Option<Range>,
    layer: Layer,
}

/// The writer of all tables.
pub struct Tables {
    pins: Pins,
    entries: BTreeMap<FrontendKey, Entry>,
    placed: BTreeMap<(FrontendKey, u8), Placed>,
    frontend_ids: FrontendIds,
    backend_ids: BackendIds,
    slots: Ranges,
    retired_sets: Vec<Range>,
    retired_ids: Vec<u32>,
    /// Frontends whose second layer no entry leads to any more. Whoever has read the entry before still needs it.
    abandoned: BTreeSet<FrontendKey>,
    rows: Rows,
    /// Clients that are exempt whatever the policy.
    exempt: usize,
    tally: Tally,
    policies: BTreeMap<u32, PolicyName>,
    sizes: Sizes,
}

impl Tables {
    /// Opens the pinned tables and takes over what they hold.
    ///
    /// # Errors
    /// A pin that cannot be opened or read.
    pub fn open(layout: &Layout, sizes: Sizes) -> Result<Self, TableError> {
        let pins = Pins::open(layout)?;
        let mut tables = Self {
            policies: pins.policies()?,
            pins,
            entries: BTreeMap::new(),
            placed: BTreeMap::new(),
            frontend_ids: FrontendIds::new(sizes.frontends),
            backend_ids: BackendIds::default(),
            slots: Ranges::new(sizes.backends),
            retired_sets: Vec::new(),
            retired_ids: Vec::new(),
            abandoned: BTreeSet::new(),
            rows: Rows::default(),
            exempt: 0,
            tally: Tally::default(),
            sizes,
        };
        tables.adopt()?;
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
        for key in &dump.broken {
            self.pins.remove_frontend(key)?;
        }
        for (at, found) in dump.layers {
            self.frontend_ids.take(found.id);
            for (id, backend) in &found.backends {
                self.backend_ids.take(*id, backend, at.0.protocol);
            }
            if let Some(set) = found.set {
                self.slots.take(set);
            }
            let placed =
                Placed { id: found.id, generation: found.generation, set: found.set, layer: found.layer };
            self.rows.count(&placed.layer);
            self.placed.insert(at, placed);
        }
        for ((key, layer), placed) in &self.placed {
            if *layer == 0 {
                let second = self.placed.get(&(*key, 1)).map(|p| p.layer.clone());
                self.entries.insert(*key, Entry { first: placed.layer.clone(), second });
            }
        }
        self.exempt = dump.skips.iter().filter(|(service_id, _)| *service_id == 0).count();
        self.frontend_ids.settle();
        self.slots.settle();
        self.rows.sweep(&mut self.pins, &dump.skips, &dump.windows)
    }

    /// Programs a frontend, new or changed, atomically for every connection.
    ///
    /// # Errors
    /// A full table or a refused operation; then the frontend is as it was before, except that its second layer may
    /// already be the new one.
    pub fn publish(&mut self, key: FrontendKey, entry: &Entry) -> Result<(), TableError> {
        let entry = entry.normalized();
        if self.entries.get(&key) == Some(&entry) {
            return Ok(());
        }
        // Not while it is about to be led to again: placing the layers may reclaim.
        let abandoned = self.abandoned.remove(&key);
        let placed = entry
            .second
            .as_ref()
            .map_or(Ok(()), |second| self.place(key, 1, second, false))
            .and_then(|()| self.place(key, 0, &entry.first, entry.second.is_some()));
        let leads_on = if placed.is_ok() { entry.second.is_some() } else { !abandoned };
        if !leads_on && self.placed.contains_key(&(key, 1)) {
            self.abandoned.insert(key);
        }
        placed?;
        self.entries.insert(key, entry);
        self.reclaim_if_worthwhile();
        Ok(())
    }

    /// Takes a frontend out: its connections go where they are dialled from now on.
    ///
    /// # Errors
    /// A refused operation; then the frontend is still programmed.
    pub fn remove(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        self.displace(*key, 0)?;
        self.displace(*key, 1)?;
        self.abandoned.remove(key);
        self.entries.remove(key);
        self.reclaim_if_worthwhile();
        Ok(())
    }

    fn place(
        &mut self,
        key: FrontendKey,
        layer_number: u8,
        layer: &Layer,
        next: bool,
    ) -> Result<(), TableError> {
        let at = (key, layer_number);
        let known = self.placed.get(&at).map(|p| (p.id, p.generation));
        let (id, generation) = match known {
            Some(known) => known,
            None => self.new_frontend_id(key)?,
        };
        if let Err(error) = self.rows.add(&mut self.pins, layer) {
            if known.is_none() {
                self.frontend_ids.free(id);
            }
            return Err(error);
        }
        let mut backends: Vec<_> =
            layer.backends.iter().map(|b| (self.backend_ids.acquire(b, key.protocol), *b)).collect();
        backends.sort_unstable_by_key(|(id, _)| *id);
        let placed = self.write(&at, id, generation, layer, &backends, next);
        match placed {
            Ok(set) => {
                let placed = Placed { id, generation, set, layer: layer.clone() };
                if let Some(old) = self.placed.insert(at, placed) {
                    if old.layer.service_id != layer.service_id {
                        self.look(&old);
                    }
                    self.retire(key, &old)?;
                }
                Ok(())
            }
            Err(error) => {
                for (_, backend) in &backends {
                    self.backend_ids.release(backend, key.protocol);
                }
                if known.is_none() {
                    self.frontend_ids.free(id);
                }
                self.rows.drop(&mut self.pins, layer)?;
                Err(error)
            }
        }
    }

    /// Writes a set that nothing names yet, then the entry that names it.
    fn write(
        &mut self,
        at: &(FrontendKey, u8),
        id: u32,
        generation: u32,
        layer: &Layer,
        backends: &[(u32, crate::model::Backend)],
        next: bool,
    ) -> Result<Option<Range>, TableError> {
        let set = match backends.len() {
            0 | 1 => None,
            n => Some(self.new_set(n as u32, &at.0)?),
        };
        let key = Key::new(&at.0, at.1);
        let written = set
            .map_or(Ok(()), |set| self.pins.write_slots(set.first, &codec::slots(backends)))
            .and_then(|()| {
                let entry = codec::frontend(&key, id, generation, layer, backends, set, next);
                self.write_frontend(&key, &entry, &at.0)
            });
        if let Err(error) = written {
            if let Some(set) = set {
                self.slots.free(set);
            }
            return Err(error);
        }
        Ok(set)
    }

    fn write_frontend(
        &mut self,
        key: &Key,
        entry: &Frontend,
        object: &FrontendKey,
    ) -> Result<(), TableError> {
        self.pins.write_frontend(key, entry).map_err(|source| match pins::errno(&source) {
            Some(libc::E2BIG | libc::ENOMEM) => self.full(maps::FRONTENDS4, object),
            _ => TableError::Operation {
                operation: "write",
                table: maps::FRONTENDS4,
                object: object.to_string(),
                source: Box::new(source),
            },
        })
    }

    fn full(&self, table: &'static str, object: &FrontendKey) -> TableError {
        let (capacity, setting) = match table {
            maps::BACKENDS => (self.sizes.backends, "--max-backends"),
            _ => (self.sizes.frontends, "--max-frontends"),
        };
        TableError::Full { table, capacity, setting, object: object.to_string() }
    }

    fn new_frontend_id(&mut self, key: FrontendKey) -> Result<(u32, u32), TableError> {
        if self.frontend_ids.is_full() {
            self.reclaim();
        }
        let Some(id) = self.frontend_ids.allocate() else {
            return Err(self.full(maps::FRONTENDS4, &key));
        };
        match self.pins.name(id, &key) {
            Ok(generation) => Ok((id, generation)),
            Err(error) => {
                self.frontend_ids.free(id);
                Err(error)
            }
        }
    }

    fn new_set(&mut self, count: u32, key: &FrontendKey) -> Result<Range, TableError> {
        if let Some(set) = self.slots.allocate(count) {
            return Ok(set);
        }
        self.reclaim();
        self.slots.allocate(count).ok_or_else(|| self.full(maps::BACKENDS, key))
    }

    fn displace(&mut self, key: FrontendKey, layer_number: u8) -> Result<(), TableError> {
        let at = (key, layer_number);
        if !self.placed.contains_key(&at) {
            return Ok(());
        }
        self.pins.remove_frontend(&Key::new(&key, layer_number))?;
        if let Some(old) = self.placed.remove(&at) {
            self.look(&old);
            self.tally.forget(old.id);
            self.retired_ids.push(old.id);
            self.retire(key, &old)?;
        }
        Ok(())
    }

    /// What an entry no longer names; programs that started before may still look at it.
    fn retire(&mut self, key: FrontendKey, old: &Placed) -> Result<(), TableError> {
        self.retired_sets.extend(old.set);
        for backend in &old.layer.backends {
            self.backend_ids.release(backend, key.protocol);
        }
        self.rows.drop(&mut self.pins, &old.layer)
    }

    fn reclaim_if_worthwhile(&mut self) {
        if self.retired_sets.len() + self.retired_ids.len() + self.abandoned.len() >= RETIRED_ENOUGH {
            self.reclaim();
        }
    }

    /// Waits for a grace period and frees what was retired before it.
    fn reclaim(&mut self) {
        if self.retired_sets.is_empty() && self.retired_ids.is_empty() && self.abandoned.is_empty() {
            return;
        }
        wait_for_programs();
        for key in std::mem::take(&mut self.abandoned) {
            if self.displace(key, 1).is_err() {
                self.abandoned.insert(key);
            }
        }
        for set in self.retired_sets.drain(..) {
            self.slots.free(set);
        }
        for id in self.retired_ids.drain(..) {
            self.frontend_ids.free(id);
        }
    }

    /// Clients whose connections are never redirected, whatever the policy.
    ///
    /// # Errors
    /// A refused operation.
    pub fn set_exempt(&mut self, clients: &BTreeSet<ClientId>) -> Result<(), TableError> {
        let known: BTreeSet<_> = self
            .pins
            .skips()?
            .into_iter()
            .filter(|(service_id, _)| *service_id == 0)
            .map(|(_, c)| c)
            .collect();
        for client in clients.difference(&known) {
            self.pins.add_skip(0, *client)?;
        }
        self.pins.set_control(control::EXEMPT, !clients.is_empty())?;
        for client in known.difference(clients) {
            self.pins.remove_skip(0, *client)?;
        }
        self.exempt = clients.len();
        Ok(())
    }

    /// Writes down which policy is behind a service id, for commands that run without an agent.
    ///
    /// # Errors
    /// A full table or a refused operation; nothing but those commands suffers.
    pub fn set_policy(&mut self, service_id: u32, policy: Option<&PolicyName>) -> Result<(), TableError> {
        if self.policies.get(&service_id) == policy {
            return Ok(());
        }
        self.pins.set_policy(service_id, policy)?;
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

    /// Switches events on or off.
    ///
    /// # Errors
    /// A refused operation.
    pub fn set_events(&mut self, on: bool) -> Result<(), TableError> {
        self.pins.set_control(control::EVENTS, on)
    }
}
