//! What is declared, in the kernel: frontends lead to services, services to backends, and none of these changes while anything
//! names it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::offset_of,
    num::NonZeroU32,
    os::fd::AsFd as _,
    path::Path,
};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use balancing_abi::{
    Plain,
    proxy::{
        Backend as RawBackend, Connection, ConnectionKey, Control, FrontendKey as RawKey, Service as Row,
        flags, maps,
    },
    sockets::{
        Affinity,
        pick::{self, Alias},
    },
};

use super::{Error, Local, Service, Sizes};
use crate::{
    model::{Backend, FrontendKey, Protocol},
    sys::{self, Raw, memory::Memory, wait_for_programs},
    tables::{
        alloc::{BackendIds, Range, Ranges, Slots},
        codec,
    },
};

const ACTIVE: usize = offset_of!(Control, active);
const LAST_BACKEND_ID: usize = offset_of!(Control, last_backend_id);
const GENERATION: usize = offset_of!(Control, generation);
const ROWS_SWEPT: usize = offset_of!(Control, rows_swept);

/// Services that wait for a grace period before the wait is worth its time.
const RETIRED_ENOUGH: usize = maps::size::SPARE as usize / 2;

/// The writer of the tables.
pub(super) struct Tables {
    frontends: HashMap<MapData, Raw<RawKey>, u32>,
    services: Memory<Row>,
    rows: Memory<RawBackend>,
    connections: HashMap<MapData, Raw<ConnectionKey>, Raw<Connection>>,
    /// The same, to be read many at a time.
    connection_rows: MapData,
    counters: PerCpuArray<MapData, u64>,
    control: Memory<Control>,
    entries: BTreeMap<FrontendKey, Service>,
    placed: BTreeMap<FrontendKey, Placed>,
    slots: Slots,
    ranges: Ranges,
    ids: BackendIds,
    retired: Vec<Placed>,
    sizes: Sizes,
}

/// A service in the kernel.
#[derive(Clone, Copy, Debug)]
struct Placed {
    slot: u32,
    range: Option<Range>,
}

fn pinned(directory: &Path, name: &str) -> Result<MapData, Error> {
    let path = directory.join(name);
    MapData::from_pin(&path).map_err(|error| Error::Open { path, source: io::Error::other(error) })
}

fn open<M: TryFrom<Map, Error = MapError>>(directory: &Path, name: &str) -> Result<M, Error> {
    let map = Map::from_map_data(pinned(directory, name)?).and_then(M::try_from);
    map.map_err(|error| Error::Open { path: directory.join(name), source: io::Error::other(error) })
}

fn memory<T: Plain>(directory: &Path, name: &str) -> Result<Memory<T>, Error> {
    let path = directory.join(name);
    let opened = sys::obj_get(&path).and_then(|fd| Memory::open(fd.as_fd(), true));
    opened.map_err(|source| Error::Open { path, source })
}

fn operation(
    operation: &'static str,
    table: &'static str,
    object: impl ToString,
) -> impl FnOnce(MapError) -> Error {
    move |source| {
        let object = object.to_string();
        Error::Operation { operation, table, object, source: io::Error::other(source) }
    }
}

impl Tables {
    /// Opens the tables and takes over what an earlier agent declared.
    pub(super) fn open(directory: &Path, sizes: Sizes) -> Result<Self, Error> {
        let mut tables = Self {
            frontends: open(directory, maps::FRONTENDS)?,
            services: memory(directory, maps::SERVICES)?,
            rows: memory(directory, maps::BACKENDS)?,
            connections: open(directory, maps::CONNECTIONS)?,
            connection_rows: pinned(directory, maps::CONNECTIONS)?,
            counters: open(directory, maps::COUNTERS)?,
            control: memory(directory, maps::CONTROL)?,
            entries: BTreeMap::new(),
            placed: BTreeMap::new(),
            slots: Slots::new(sizes.frontends + maps::size::SPARE),
            ranges: Ranges::new(sizes.backends),
            ids: BackendIds::default(),
            retired: Vec::new(),
            sizes,
        };
        tables.adopt()?;
        Ok(tables)
    }

    fn adopt(&mut self) -> Result<(), Error> {
        let rows: Result<Vec<(Raw<RawKey>, u32)>, _> = self.frontends.iter().collect();
        for (Raw(key), slot) in rows.map_err(operation("read", maps::FRONTENDS, "all rows"))? {
            let Some((plain, service, placed)) = self.read(&key, slot) else {
                let removed = self.frontends.remove(&Raw(key));
                removed.map_err(operation("delete", maps::FRONTENDS, "a row that leads nowhere"))?;
                continue;
            };
            self.slots.take(slot);
            if let Some(range) = placed.range {
                self.ranges.take(range);
            }
            self.entries.insert(plain, service);
            self.placed.insert(plain, placed);
        }
        self.ranges.settle();
        self.ids.go_on(self.control.load32(0, LAST_BACKEND_ID));
        // An earlier agent may have ended between a change and telling of it.
        self.tell_loss();
        // What an earlier agent retired is free here, but programs may still look at it.
        wait_for_programs();
        Ok(())
    }

    /// A service as the kernel has it; `None` where it is not what its frontend says.
    fn read(&mut self, key: &RawKey, slot: u32) -> Option<(FrontendKey, Service, Placed)> {
        let row = self.services.read(slot).filter(|row| row.key == *key)?;
        let plain = codec::plain_frontend(&key.address, key.port, key.protocol)?;
        let range = (row.count > 0).then_some(Range { first: row.first, count: row.count });
        let mut found = Vec::with_capacity(row.count as usize);
        for index in row.first..row.first.checked_add(row.count)? {
            let raw = self.rows.read(index)?;
            let backend = Backend {
                address: codec::address(&raw.address),
                port: u16::from_be(raw.port),
                weight: raw.weight,
            };
            found.push((raw.id, backend));
        }
        for (id, backend) in &found {
            self.ids.take(*id, backend, plain.protocol);
        }
        let mut backends: Vec<_> = found.into_iter().map(|(_, backend)| backend).collect();
        backends.sort_unstable();
        let service = Service {
            service_id: row.service_id,
            backends,
            affinity: NonZeroU32::new(row.affinity_seconds),
            reject: row.flags & flags::REJECT != 0,
        };
        Some((plain, service, Placed { slot, range }))
    }

    pub(super) fn entries(&self) -> &BTreeMap<FrontendKey, Service> {
        &self.entries
    }

    /// Backends of all services.
    pub(super) fn backends(&self) -> u32 {
        self.placed.values().filter_map(|placed| placed.range).map(|range| range.count).sum()
    }

    /// Makes programs look whether the backends of their connections are still there.
    fn tell_loss(&mut self) {
        self.control.store32(0, GENERATION, self.control.load32(0, GENERATION).wrapping_add(1));
    }

    /// Puts a service into force.
    pub(super) fn publish(&mut self, key: FrontendKey, service: &Service) -> Result<(), Error> {
        let mut service = service.clone();
        service.backends.sort_unstable();
        if self.entries.get(&key) == Some(&service) {
            return Ok(());
        }
        let placed = self.place(&key, service.backends.len() as u32)?;
        self.write(&key, &service, placed);
        let raw = raw_key(&key);
        if let Err(error) = self.frontends.insert(Raw(raw), placed.slot, 0) {
            self.release(&service, key.protocol);
            self.retired.push(placed);
            return Err(self.refused(&key, error));
        }
        if self.entries.get(&key).is_some_and(|before| has_lost(before, &service)) {
            self.tell_loss();
        }
        let before = self.entries.insert(key, service);
        self.retired.extend(self.placed.insert(key, placed));
        if let Some(before) = &before {
            self.release(before, key.protocol);
        }
        Ok(())
    }

    /// Takes a port back.
    pub(super) fn remove(&mut self, key: &FrontendKey) -> Result<(), Error> {
        let Some(before) = self.entries.get(key).cloned() else { return Ok(()) };
        match self.frontends.remove(&Raw(raw_key(key))) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(operation("delete", maps::FRONTENDS, key)(error)),
        }
        self.tell_loss();
        self.entries.remove(key);
        self.retired.extend(self.placed.remove(key));
        self.release(&before, key.protocol);
        Ok(())
    }

    /// Finds room, waiting for programs if there is none otherwise.
    fn place(&mut self, key: &FrontendKey, count: u32) -> Result<Placed, Error> {
        if self.retired.len() >= RETIRED_ENOUGH {
            self.reclaim();
        }
        for attempt in 0..2 {
            if attempt == 1 {
                self.reclaim();
            }
            let range = if count == 0 { None } else { self.ranges.allocate(count) };
            if count > 0 && range.is_none() {
                continue;
            }
            match self.slots.allocate(0) {
                Some(slot) => return Ok(Placed { slot, range }),
                None => range.into_iter().for_each(|range| self.ranges.free(range)),
            }
        }
        let is_one_more =
            !self.entries.contains_key(key) && self.entries.len() as u32 >= self.sizes.frontends;
        let (table, capacity) = match is_one_more {
            true => (maps::FRONTENDS, self.sizes.frontends),
            false => (maps::BACKENDS, self.sizes.backends),
        };
        Err(Error::Full { table, capacity, object: key.to_string() })
    }

    /// What was replaced is free once no program that has seen it runs any more.
    fn reclaim(&mut self) {
        if self.retired.is_empty() {
            return;
        }
        wait_for_programs();
        for placed in self.retired.drain(..) {
            self.slots.free(placed.slot);
            if let Some(range) = placed.range {
                self.ranges.free(range);
            }
        }
    }

    /// Writes a service and its backends where nothing names them.
    fn write(&mut self, key: &FrontendKey, service: &Service, placed: Placed) {
        let ids = service.backends.iter().map(|backend| (self.ids.acquire(backend, key.protocol), *backend));
        let mut backends: Vec<(u32, Backend)> = ids.collect();
        self.control.store32(0, LAST_BACKEND_ID, self.ids.last());
        backends.sort_unstable_by_key(|(id, _)| *id);
        let weights: Vec<u32> = backends.iter().map(|(_, backend)| backend.weight).collect();
        let mut aliases = vec![Alias { threshold: 0, alias: 0 }; weights.len()];
        let drawn = pick::fill(&weights, &mut aliases, &mut vec![0; weights.len()]);
        let first = placed.range.map_or(0, |range| range.first);
        for ((index, (id, backend)), alias) in (first..).zip(&backends).zip(aliases) {
            let row = RawBackend {
                address: codec::words(backend.address),
                port: backend.port.to_be(),
                pad: 0,
                id: *id,
                threshold: alias.threshold,
                alias: alias.alias,
                weight: backend.weight,
            };
            self.rows.write(index, &row);
        }
        let seconds = service.affinity.map_or(0, NonZeroU32::get);
        let drained = if drawn { 0 } else { flags::DRAINED };
        let row = Row {
            key: raw_key(key),
            first,
            count: backends.len() as u32,
            affinity: Affinity::ticks(seconds),
            service_id: service.service_id,
            affinity_seconds: seconds,
            flags: drained | if service.reject { flags::REJECT } else { 0 },
        };
        self.services.write(placed.slot, &row);
    }

    fn release(&mut self, service: &Service, protocol: Protocol) {
        service.backends.iter().for_each(|backend| self.ids.release(backend, protocol));
    }

    fn refused(&self, key: &FrontendKey, error: MapError) -> Error {
        match crate::tables::pins::errno(&error) {
            Some(libc::E2BIG | libc::ENOMEM) => Error::Full {
                table: maps::FRONTENDS,
                capacity: self.sizes.frontends,
                object: key.to_string(),
            },
            _ => operation("write", maps::FRONTENDS, key)(error),
        }
    }

    /// Writes the copy that does not count, then makes it count. It is not written again before programs have left it.
    pub(super) fn set_local(&mut self, local: &Local) {
        let Some(mut row) = self.control.read(0) else { return };
        let words = |address: Option<std::net::IpAddr>| address.map_or([0; 4], codec::words);
        let wanted = [words(local.ipv4.map(Into::into)), words(local.ipv6.map(Into::into))];
        let active = (row.active & 1) as usize;
        if row.local[active] == wanted {
            return;
        }
        row.local[active ^ 1] = wanted;
        self.control.write(0, &row);
        self.control.store32(0, ACTIVE, (active ^ 1) as u32);
        wait_for_programs();
    }

    /// One counter of all CPUs.
    pub(super) fn counter(&self, index: u32) -> Result<u64, Error> {
        let values = self.counters.get(&index, 0).map_err(operation("read", maps::COUNTERS, index))?;
        Ok(values.iter().sum())
    }

    /// The table of connections, to be read.
    pub(super) fn connections(&self) -> &MapData {
        &self.connection_rows
    }

    /// The row of a connection as it is now.
    pub(super) fn connection(&self, key: &ConnectionKey) -> Option<Connection> {
        self.connections.get(&Raw(*key), 0).ok().map(|Raw(row)| row)
    }

    /// Rows that were removed here, by earlier agents as well.
    pub(super) fn rows_swept(&self) -> u64 {
        self.control.load64(0, ROWS_SWEPT)
    }

    /// Removes a row of a connection; one that is gone already is no failure.
    pub(super) fn forget(&mut self, key: &ConnectionKey) -> Result<(), Error> {
        match self.connections.remove(&Raw(*key)) {
            Ok(()) => {
                self.control.store64(0, ROWS_SWEPT, self.rows_swept() + 1);
                Ok(())
            }
            Err(MapError::KeyNotFound) => Ok(()),
            Err(error) if crate::tables::pins::errno(&error) == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(operation("delete", maps::CONNECTIONS, "a connection that has ended")(error)),
        }
    }
}

/// Whether a backend of the one is none of the other.
fn has_lost(before: &Service, after: &Service) -> bool {
    let place = |backend: &Backend| (backend.address, backend.port);
    let there: BTreeSet<_> = after.backends.iter().map(place).collect();
    before.backends.iter().any(|backend| !there.contains(&place(backend)))
}

fn raw_key(key: &FrontendKey) -> RawKey {
    RawKey {
        address: codec::words(key.address),
        port: key.port.to_be(),
        protocol: codec::protocol(key.protocol),
        pad: 0,
    }
}
