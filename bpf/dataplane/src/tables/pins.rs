//! The pinned maps with their types, and single operations on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
    os::fd::AsFd as _,
};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use balancing_abi::{
    Plain,
    sockets::{
        Control, Frontend, Name, PolicyName as RawPolicy, RareCounters, SkipKey, Slot, Window, known, maps,
        reverse_nat, stat,
    },
};

use super::{
    Counters, TableError,
    alloc::Range,
    codec,
    index::{Crowded, Index},
};
use crate::{
    layout::Layout,
    model::{ClientId, FrontendKey, PolicyKind, PolicyName},
    sizes::Sizes,
    sys::{self, Raw, memory::Memory},
};

/// Offset of [`Name`]'s last eight bytes: port, protocol and generation, one word.
const NAME_TAIL: usize = offset_of!(Name, port);
const GENERATION: usize = offset_of!(Name, generation);
const OWNER: usize = offset_of!(Window, owner);
const FLAGS: usize = offset_of!(Control, flags);
const LAST_BACKEND_ID: usize = offset_of!(Control, last_backend_id);
const EPOCH: usize = offset_of!(Control, epoch);

/// Every table that user space reads or writes.
pub(crate) struct Pins {
    pub(crate) index: Index,
    pub(crate) frontends: Memory<Frontend>,
    pub(crate) backends: Memory<Slot>,
    known: Memory<[u64; known::BLOCK as usize]>,
    names: Memory<Name>,
    /// A row of all ids for each CPU.
    redirected: Memory<u64>,
    rare: Memory<RareCounters>,
    windows: Memory<Window>,
    control: Memory<Control>,
    stats: PerCpuArray<MapData, u64>,
    skips: HashMap<MapData, Raw<SkipKey>, u8>,
    policies: HashMap<MapData, u32, Raw<RawPolicy>>,
    affinity: MapData,
    sizes: Sizes,
}

/// The errno of a failed operation.
pub(crate) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        MapError::IoError(e) => e.raw_os_error(),
        _ => None,
    }
}

fn pinned(layout: &Layout, name: &str) -> Result<MapData, TableError> {
    let path = layout.maps().join(name);
    MapData::from_pin(&path).map_err(|source| TableError::Open { path, source: Box::new(source) })
}

pub(super) fn open<M: TryFrom<Map, Error = MapError>>(layout: &Layout, name: &str) -> Result<M, TableError> {
    let map = Map::from_map_data(pinned(layout, name)?).and_then(M::try_from);
    map.map_err(|source| TableError::Open { path: layout.maps().join(name), source: Box::new(source) })
}

pub(crate) fn memory<T: Plain>(layout: &Layout, name: &str, writable: bool) -> Result<Memory<T>, TableError> {
    let path = layout.maps().join(name);
    let opened = sys::obj_get(&path).and_then(|fd| Memory::open(fd.as_fd(), writable));
    opened.map_err(|source| TableError::Open { path, source: Box::new(MapError::IoError(source)) })
}

/// Sets a bit of [`Control::flags`]. There is one writer.
pub(crate) fn set_control(control: &mut Memory<Control>, bit: u32, on: bool) {
    let flags = control.load32(0, FLAGS);
    control.store32(0, FLAGS, if on { flags | bit } else { flags & !bit });
}

pub(super) fn operation(
    operation: &'static str,
    table: &'static str,
    object: impl ToString,
) -> impl FnOnce(MapError) -> TableError {
    move |source| TableError::Operation {
        operation,
        table,
        object: object.to_string(),
        source: Box::new(source),
    }
}

/// Deleting what is not there is no failure.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(e) if errno(&e) == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

pub(super) fn sum(values: &PerCpuValues<u64>) -> u64 {
    values.iter().sum()
}

impl Pins {
    /// Opens the maps; without `writable` those that are memory can only be read.
    pub(crate) fn open(layout: &Layout, writable: bool) -> Result<Self, TableError> {
        let control: Memory<Control> = memory(layout, maps::CONTROL, writable)?;
        let seed = control.read(0).map_or(0, |control| control.seed);
        Ok(Self {
            index: Index::new(memory(layout, maps::INDEX, writable)?, seed),
            frontends: memory(layout, maps::FRONTENDS, writable)?,
            backends: memory(layout, maps::BACKENDS, writable)?,
            known: memory(layout, maps::KNOWN, writable)?,
            names: memory(layout, maps::NAMES, writable)?,
            redirected: memory(layout, maps::REDIRECTED, writable)?,
            rare: memory(layout, maps::RARE, writable)?,
            windows: memory(layout, maps::QOS, writable)?,
            control,
            stats: open(layout, maps::STATS)?,
            skips: open(layout, maps::SKIPS)?,
            policies: open(layout, maps::POLICIES)?,
            affinity: pinned(layout, maps::AFFINITY)?,
            sizes: Sizes::of(layout),
        })
    }

    /// Where the slot of a frontend's first layer is best.
    pub(crate) fn home(&self, key: &FrontendKey) -> u32 {
        self.index.home(&codec::key(key))
    }

    /// Puts a frontend's slot into force.
    pub(crate) fn link(&mut self, slot: u32) -> Result<(), Crowded> {
        self.index.link(&mut self.frontends, slot)
    }

    /// Takes a frontend out of force.
    pub(crate) fn unlink(&mut self, key: &FrontendKey) {
        self.index.unlink(&mut self.frontends, &codec::key(key));
    }

    /// Notes that an address is a backend, before the first frontend leads to it.
    pub(crate) fn know(&mut self, backend: &FrontendKey) {
        let (block, word, bit) = known::place(self.index.hash(&codec::key(backend)));
        let offset = 8 * word as usize;
        let bits = self.known.load64(block, offset);
        if bits & bit == 0 {
            self.known.store64(block, offset, bits | bit);
        }
    }

    /// Writes the slots of a set, which nothing names.
    pub(crate) fn write_slots(&mut self, set: Range, slots: impl Iterator<Item = Slot>) {
        for (index, slot) in (set.first..).zip(slots) {
            self.backends.write(index, &slot);
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.control.load64(0, EPOCH)
    }

    /// A grace period is over.
    pub(crate) fn next_epoch(&mut self) {
        self.control.store64(0, EPOCH, self.epoch() + 1);
        // What is written into freed memory from now on comes after it, also where a release orders only what came before.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
    }

    /// The backend id that was given away last, by this agent or an earlier one.
    pub(crate) fn last_backend_id(&self) -> u32 {
        self.control.load32(0, LAST_BACKEND_ID)
    }

    /// Notes it, before any slot has the id.
    pub(crate) fn set_last_backend_id(&mut self, id: u32) {
        self.control.store32(0, LAST_BACKEND_ID, id);
    }

    pub(crate) fn generation(&self, id: u32) -> Option<u32> {
        (id < self.names.len()).then(|| self.names.load32(id, GENERATION))
    }

    /// One more than the largest id that ever had a name.
    pub(crate) fn ids_used(&self) -> u32 {
        let named = |id: &u32| self.names.load32(*id, GENERATION) != 0;
        (0..self.names.len()).rev().find(named).map_or(0, |id| id + 1)
    }

    /// No reference names the id any more. Before the id is named anew a grace period has to pass.
    pub(crate) fn unname(&mut self, id: u32) {
        let tail = self.names.load64(id, NAME_TAIL);
        // The layout of the last eight bytes in memory: the generation is their second half.
        let generation = reverse_nat::next_generation((tail >> 32) as u32);
        self.names.store64(id, NAME_TAIL, tail & 0xffff_ffff | u64::from(generation) << 32);
    }

    /// Gives an id, which no reference names, to a frontend, and sets its counters to zero. Returns its generation.
    pub(crate) fn name(&mut self, id: u32, key: &FrontendKey) -> u32 {
        let generation = match self.names.load32(id, GENERATION) {
            0 => reverse_nat::next_generation(0),
            known => known,
        };
        let name = Name {
            address: codec::words(key.address),
            port: key.port.to_be(),
            protocol: codec::protocol(key.protocol),
            pad: 0,
            generation,
        };
        self.names.write(id, &name);
        for cpu in 0..self.cpus() {
            self.redirected.store64(cpu * self.names.len() + id, 0, 0);
        }
        self.rare.write(id, &RareCounters { qos_overflow: 0, no_backend: 0, skipped: 0 });
        generation
    }

    fn cpus(&self) -> u32 {
        self.redirected.len() / self.names.len()
    }

    /// Everything counted for one frontend id; nothing for an id that there is not.
    pub(crate) fn counters(&self, id: u32) -> Counters {
        let ids = self.names.len();
        if id >= ids {
            return Counters::default();
        }
        // Each counter by one load: a copy word by word could be of two moments.
        let rare = |offset| self.rare.load64(id, offset);
        Counters {
            redirected: (0..self.cpus()).map(|cpu| self.redirected.load64(cpu * ids + id, 0)).sum(),
            qos_overflow: rare(offset_of!(RareCounters, qos_overflow)),
            no_backend: rare(offset_of!(RareCounters, no_backend)),
            skipped: rare(offset_of!(RareCounters, skipped)),
        }
    }

    pub(crate) fn stat(&self, index: u32) -> Result<u64, TableError> {
        debug_assert!(index < stat::COUNT);
        self.stats.get(&index, 0).map(|v| sum(&v)).map_err(operation("read", maps::STATS, index))
    }

    /// Clients in the affinity table.
    pub(crate) fn affinity_clients(&self) -> Result<u64, TableError> {
        let failed = |source| operation("read", maps::AFFINITY, "all rows")(MapError::IoError(source));
        sys::map_count(self.affinity.fd().as_fd()).map_err(failed)
    }

    /// Owners of the QoS windows, 0 = nobody, by index.
    pub(crate) fn windows(&self) -> Vec<u64> {
        (0..self.windows.len()).map(|index| self.windows.load64(index, OWNER)).collect()
    }

    pub(crate) fn window_owner(&self, index: u32) -> Option<u64> {
        self.windows.read(index).map(|window| window.owner)
    }

    pub(crate) fn set_window_owner(&mut self, index: u32, owner: u64) {
        self.windows.store64(index, OWNER, owner);
    }

    /// The last second in which a window granted.
    pub(crate) fn window_second(&self, index: u32) -> u64 {
        self.windows.load64(index, 0) >> 32
    }

    pub(crate) fn add_skip(&mut self, service_id: u32, client: ClientId) -> Result<(), TableError> {
        let written = self.skips.insert(skip_key(service_id, client), 1, 0);
        // Of service id 0 are clients that are exempt from all policies.
        let object = match service_id {
            0 => format!("exempt client {client}"),
            _ => format!("policy {service_id}"),
        };
        written.map_err(|source| match errno(&source) {
            Some(libc::E2BIG | libc::ENOMEM) => TableError::full(maps::SKIPS, self.sizes.skips, object),
            _ => operation("write", maps::SKIPS, object)(source),
        })
    }

    pub(crate) fn remove_skip(&mut self, service_id: u32, client: ClientId) -> Result<(), TableError> {
        gone(self.skips.remove(&skip_key(service_id, client))).map_err(operation(
            "delete",
            maps::SKIPS,
            service_id,
        ))
    }

    pub(crate) fn skips(&self) -> Result<BTreeSet<(u32, ClientId)>, TableError> {
        let keys: Vec<Raw<SkipKey>> = self.skips.keys().collect::<Result<_, _>>().map_err(operation(
            "read",
            maps::SKIPS,
            "all keys",
        ))?;
        Ok(keys
            .into_iter()
            .map(|Raw(key)| match key.kind {
                SkipKey::NETNS => (key.service_id, ClientId::NetnsCookie(key.client)),
                _ => (key.service_id, ClientId::Cgroup(key.client)),
            })
            .collect())
    }

    pub(crate) fn set_control(&mut self, bit: u32, on: bool) {
        set_control(&mut self.control, bit, on);
    }

    pub(crate) fn has_control(&self, bit: u32) -> bool {
        self.control.load32(0, FLAGS) & bit != 0
    }

    pub(crate) fn set_policy(&mut self, id: u32, policy: Option<&PolicyName>) -> Result<(), TableError> {
        let Some(policy) = policy else {
            return gone(self.policies.remove(&id)).map_err(operation("delete", maps::POLICIES, id));
        };
        let written = self.policies.insert(id, Raw(raw_policy(policy)), 0);
        written.map_err(|source| match errno(&source) {
            Some(libc::E2BIG | libc::ENOMEM) => {
                TableError::full(maps::POLICIES, self.sizes.policies, &policy.name)
            }
            _ => operation("write", maps::POLICIES, &policy.name)(source),
        })
    }

    pub(crate) fn policies(&self) -> Result<BTreeMap<u32, PolicyName>, TableError> {
        let rows: Vec<(u32, Raw<RawPolicy>)> = self
            .policies
            .iter()
            .collect::<Result<_, _>>()
            .map_err(operation("read", maps::POLICIES, "all rows"))?;
        Ok(rows.into_iter().map(|(id, Raw(row))| (id, policy(&row))).collect())
    }
}

fn skip_key(service_id: u32, client: ClientId) -> Raw<SkipKey> {
    let (client, kind) = match client {
        ClientId::NetnsCookie(cookie) => (cookie, SkipKey::NETNS),
        ClientId::Cgroup(id) => (id, SkipKey::CGROUP),
    };
    Raw(SkipKey { client, service_id, kind })
}

fn raw_policy(policy: &PolicyName) -> RawPolicy {
    let mut name = [0; 256];
    let length = policy.name.len().min(name.len());
    name[..length].copy_from_slice(&policy.name.as_bytes()[..length]);
    let kind = match policy.kind {
        PolicyKind::LocalRedirect => 0,
        PolicyKind::Balancing => 1,
    };
    RawPolicy { kind, length: length as u32, name }
}

fn policy(row: &RawPolicy) -> PolicyName {
    let length = (row.length as usize).min(row.name.len());
    PolicyName {
        kind: if row.kind == 0 { PolicyKind::LocalRedirect } else { PolicyKind::Balancing },
        name: String::from_utf8_lossy(&row.name[..length]).into_owned(),
    }
}
