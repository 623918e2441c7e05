//! A change of one frontend: new layers are written beside the old ones, then one store switches.
//!
//! Whatever fails before the switch is undone and leaves nothing behind.

use balancing_abi::sockets::maps;

use super::{Placed, TableError, Tables, alloc::Range, codec, index::Crowded};
use crate::model::{Backend, Entry, FrontendKey, LAYERS, Layer};

/// One layer of a change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Staged {
    /// As it was, and so are those below.
    Kept(Placed),
    /// Written, but named by nothing yet.
    New {
        placed: Placed,
        /// The frontend had no layer of this depth.
        new_id: bool,
    },
}

impl Staged {
    fn placed(&self) -> Placed {
        match self {
            Self::Kept(placed) | Self::New { placed, .. } => *placed,
        }
    }
}

impl Tables {
    /// Writes the layers that differ from those in force, the last one first.
    pub(super) fn stage(&mut self, key: &FrontendKey, entry: &Entry) -> Result<Vec<Staged>, TableError> {
        let layers = entry.layers.len();
        if layers > LAYERS {
            return Err(TableError::Layers { object: *key, layers });
        }
        let mut staged = Vec::with_capacity(layers);
        for depth in (0..layers).rev() {
            match self.stage_layer(key, entry, depth, staged.last()) {
                Ok(layer) => staged.push(layer),
                Err(error) => {
                    staged.reverse();
                    self.unstage(key, &entry.layers[depth + 1..], &staged);
                    return Err(error);
                }
            }
        }
        staged.reverse();
        Ok(staged)
    }

    fn stage_layer(
        &mut self,
        key: &FrontendKey,
        entry: &Entry,
        depth: usize,
        below: Option<&Staged>,
    ) -> Result<Staged, TableError> {
        let layer = &entry.layers[depth];
        let in_force = |depth| Some(*self.placed.get(key)?.get(depth)?);
        let (old, old_below) = (in_force(depth), in_force(depth + 1));
        let next = below.map_or(0, |below| below.placed().slot);
        if let Some(old) = old
            && old_below.map_or(0, |old| old.slot) == next
            && self.entries.get(key).and_then(|entry| entry.layers.get(depth)) == Some(layer)
        {
            return Ok(Staged::Kept(old));
        }
        let (id, generation) = match old {
            Some(old) => (old.id, old.generation),
            None => self.new_id(key)?,
        };
        // Only first layers are looked for by a hash.
        let wanted = if depth == 0 { self.pins.home(key) } else { self.sizes.frontends };
        let written = self.write_layer(key, layer, (id, generation), (wanted, next));
        if written.is_err() && old.is_none() {
            self.return_id(id);
        }
        let (slot, set) = written?;
        Ok(Staged::New { placed: Placed { id, generation, slot, set }, new_id: old.is_none() })
    }

    /// Writes a layer with its rows and backends into places that nothing names; all of it or nothing.
    fn write_layer(
        &mut self,
        key: &FrontendKey,
        layer: &Layer,
        (id, generation): (u32, u32),
        (wanted, next): (u32, u32),
    ) -> Result<(u32, Option<Range>), TableError> {
        let slot = self.new_slot(key, wanted)?;
        let set = self.new_set(key, codec::slots_needed(layer)).inspect_err(|_full| self.slots.free(slot))?;
        let window = match self.add_rows(layer) {
            Ok(window) => window,
            Err(error) => {
                self.slots.free(slot);
                set.into_iter().for_each(|set| self.sets.free(set));
                return Err(error);
            }
        };
        let mut backends: Vec<(u32, Backend)> =
            layer.backends.iter().map(|b| (self.backend_ids.acquire(b, key.protocol), *b)).collect();
        backends.sort_unstable_by_key(|(id, _)| *id);
        self.pins.set_last_backend_id(self.backend_ids.last());
        for (_, backend) in &backends {
            let Backend { address, port, .. } = *backend;
            self.pins.know(&FrontendKey { address, port, protocol: key.protocol });
        }
        if let Some(set) = set {
            let head = codec::head(layer, window).as_ref().map(codec::head_as_slot);
            self.pins.write_slots(set, head.into_iter().chain(codec::slots(&backends)));
        }
        let place = codec::Place { id, generation, set, next };
        self.pins.frontends.write(slot, &codec::frontend(key, &place, layer, &backends));
        Ok((slot, set))
    }

    /// The rows that a layer shares with others. Those of layers that are gone may still wait for a grace period.
    fn add_rows(&mut self, layer: &Layer) -> Result<u32, TableError> {
        let added = match self.rows.add(&mut self.pins, layer) {
            Err(TableError::Full { table: maps::QOS | maps::SKIPS, .. }) => {
                self.reclaim();
                self.rows.add(&mut self.pins, layer)
            }
            result => result,
        };
        added.map_err(|error| error.of_policy(self.policies.get(&layer.service_id)))
    }

    /// Undoes what was staged: programs have not seen it.
    fn unstage(&mut self, key: &FrontendKey, layers: &[Layer], staged: &[Staged]) {
        for (layer, staged) in layers.iter().zip(staged) {
            let Staged::New { placed, new_id } = staged else { continue };
            self.slots.free(placed.slot);
            placed.set.into_iter().for_each(|set| self.sets.free(set));
            self.release(key, layer);
            if *new_id {
                self.return_id(placed.id);
            }
        }
    }

    /// Puts what was staged into force and retires what it replaces.
    pub(super) fn switch(
        &mut self,
        key: FrontendKey,
        entry: Entry,
        staged: Vec<Staged>,
    ) -> Result<(), TableError> {
        if let Err(Crowded) = self.pins.link(staged[0].placed().slot) {
            self.unstage(&key, &entry.layers, &staged);
            return Err(TableError::full(maps::INDEX, self.sizes.frontends, key));
        }
        let placed = staged.iter().map(Staged::placed).collect();
        let old = self.placed.insert(key, placed).unwrap_or_default();
        let old_layers = self.entries.insert(key, entry).map(|entry| entry.layers).unwrap_or_default();
        for (depth, (layer, old)) in old_layers.iter().zip(&old).enumerate() {
            match staged.get(depth) {
                Some(Staged::Kept(_)) => continue,
                Some(Staged::New { .. }) => {
                    let policy = |entry: &Entry| entry.layers.get(depth).map(|layer| layer.service_id);
                    if self.entries.get(&key).and_then(policy) != Some(layer.service_id) {
                        self.look(old.id, layer.service_id);
                    }
                }
                None => self.give_up_id(layer, old.id),
            }
            self.retire(&key, layer, old);
        }
        Ok(())
    }

    /// What no table names any more.
    pub(super) fn retire(&mut self, key: &FrontendKey, layer: &Layer, placed: &Placed) {
        self.retired.slots.push(placed.slot);
        self.retired.sets.extend(placed.set);
        self.release(key, layer);
    }

    /// The id of a layer that is gone.
    pub(super) fn give_up_id(&mut self, layer: &Layer, id: u32) {
        self.look(id, layer.service_id);
        self.tally.forget(id);
        self.retired.ids.push(id);
        self.live -= 1;
    }

    /// An id that was named, but that no frontend in force ever had.
    fn return_id(&mut self, id: u32) {
        self.unnamed.push(id);
        self.live -= 1;
    }

    fn release(&mut self, key: &FrontendKey, layer: &Layer) {
        for backend in &layer.backends {
            self.backend_ids.release(backend, key.protocol);
        }
        self.rows.drop(&mut self.pins, layer);
    }

    fn new_slot(&mut self, key: &FrontendKey, wanted: u32) -> Result<u32, TableError> {
        if let Some(slot) = self.slots.allocate(wanted) {
            return Ok(slot);
        }
        self.reclaim();
        let full = || TableError::full(maps::FRONTENDS, self.sizes.frontends, key);
        self.slots.allocate(wanted).ok_or_else(full)
    }

    fn new_set(&mut self, key: &FrontendKey, slots: u32) -> Result<Option<Range>, TableError> {
        if slots == 0 {
            return Ok(None);
        }
        if let Some(set) = self.sets.allocate(slots) {
            return Ok(Some(set));
        }
        self.reclaim();
        let full = || {
            let object = format!("{key}, which needs {slots} in a row,");
            TableError::full(maps::BACKENDS, self.sizes.backends, object)
        };
        self.sets.allocate(slots).map(Some).ok_or_else(full)
    }

    /// An id with the name of the frontend, and its generation.
    fn new_id(&mut self, key: &FrontendKey) -> Result<(u32, u32), TableError> {
        let capacity = self.sizes.frontends;
        let full = || TableError::full(maps::FRONTENDS, capacity, key);
        if self.live >= capacity {
            return Err(full());
        }
        let id =
            self.ids.fresh().or_else(|| self.unnamed.pop()).or_else(|| self.unname()).ok_or_else(full)?;
        self.live += 1;
        Ok((id, self.pins.name(id, key)))
    }

    /// Takes ids from frontends that are gone and returns one of them.
    ///
    /// Connections of those frontends may still refer to the ids. First no reference names them any more; a program that has
    /// found a reference good before that may read the address until the grace period is over.
    fn unname(&mut self) -> Option<u32> {
        if self.ids.has_none_freed() {
            self.reclaim();
        }
        while self.unnamed.len() < super::UNNAMED_AT_ONCE
            && let Some(id) = self.ids.freed()
        {
            self.pins.unname(id);
            self.unnamed.push(id);
        }
        if !self.unnamed.is_empty() {
            crate::sys::wait_for_programs();
        }
        self.unnamed.pop()
    }
}
