//! The pinned maps with their types, and single operations on them.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use balancing_abi::{
    Control, Frontend, Key4, Key6, Locked, Name, PolicyName as RawPolicy, RareKey, SkipKey, Slot,
    bpf_spin_lock, conn, maps, rare, stat,
};

use super::{Counters, TableError, codec, codec::Key};
use crate::{
    layout::Layout,
    model::{ClientId, FrontendKey, PolicyKind, PolicyName},
    sys::Raw,
};

/// `BPF_F_LOCK`: an entry changes in its place and is read whole.
const IN_PLACE: u64 = 4;

type Hash<K, V> = HashMap<MapData, K, V>;

/// Every table that user space reads or writes.
pub(crate) struct Pins {
    pub(crate) frontends4: Hash<Raw<Key4>, Raw<Locked>>,
    pub(crate) frontends6: Hash<Raw<Key6>, Raw<Locked>>,
    pub(crate) backends: Array<MapData, Raw<Slot>>,
    names: Array<MapData, Raw<Name>>,
    redirected: PerCpuArray<MapData, u64>,
    rare: PerCpuHashMap<MapData, Raw<RareKey>, u64>,
    stats: PerCpuArray<MapData, u64>,
    qos: Hash<u32, u64>,
    skips: Hash<Raw<SkipKey>, u8>,
    policies: Hash<u32, Raw<RawPolicy>>,
    control: Array<MapData, Raw<Control>>,
}

/// The errno of a failed operation.
pub(crate) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        MapError::IoError(e) => e.raw_os_error(),
        _ => None,
    }
}

fn open<M: TryFrom<Map, Error = MapError>>(layout: &Layout, name: &str) -> Result<M, TableError> {
    let path = layout.maps().join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(|source| TableError::Open { path, source: Box::new(source) })
}

fn operation(
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

fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(None),
        other => other.map(Some),
    }
}

fn sum(values: &PerCpuValues<u64>) -> u64 {
    values.iter().sum()
}

impl Pins {
    pub(crate) fn open(layout: &Layout) -> Result<Self, TableError> {
        Ok(Self {
            frontends4: open(layout, maps::FRONTENDS4)?,
            frontends6: open(layout, maps::FRONTENDS6)?,
            backends: open(layout, maps::BACKENDS)?,
            names: open(layout, maps::NAMES)?,
            redirected: open(layout, maps::REDIRECTED)?,
            rare: open(layout, maps::RARE)?,
            stats: open(layout, maps::STATS)?,
            qos: open(layout, maps::QOS)?,
            skips: open(layout, maps::SKIPS)?,
            policies: open(layout, maps::POLICIES)?,
            control: open(layout, maps::CONTROL)?,
        })
    }

    pub(crate) fn write_frontend(&mut self, key: &Key, entry: &Frontend) -> Result<(), MapError> {
        let entry = Raw(Locked { frontend: *entry, lock: bpf_spin_lock::default(), pad: 0 });
        match key {
            Key::V4(k) => self.frontends4.insert(Raw(*k), entry, IN_PLACE),
            Key::V6(k) => self.frontends6.insert(Raw(*k), entry, IN_PLACE),
        }
    }

    pub(crate) fn frontend(&self, key: &Key) -> Result<Option<Frontend>, TableError> {
        let (table, result) = match key {
            Key::V4(k) => (maps::FRONTENDS4, self.frontends4.get(&Raw(*k), IN_PLACE)),
            Key::V6(k) => (maps::FRONTENDS6, self.frontends6.get(&Raw(*k), IN_PLACE)),
        };
        Ok(found(result).map_err(operation("read", table, "an entry"))?.map(|Raw(entry)| entry.frontend))
    }

    pub(crate) fn remove_frontend(&mut self, key: &Key) -> Result<(), TableError> {
        let (table, result) = match key {
            Key::V4(k) => (maps::FRONTENDS4, self.frontends4.remove(&Raw(*k))),
            Key::V6(k) => (maps::FRONTENDS6, self.frontends6.remove(&Raw(*k))),
        };
        gone(result).map_err(|source| {
            let object = key.plain().map_or_else(|| "an entry".to_owned(), |(key, _)| key.to_string());
            operation("delete", table, object)(source)
        })
    }

    pub(crate) fn write_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), TableError> {
        for (index, slot) in (first..).zip(slots) {
            self.backends.set(index, Raw(*slot), 0).map_err(operation("write", maps::BACKENDS, index))?;
        }
        Ok(())
    }

    /// Gives an id to a frontend: writes its name and sets its counters to zero. Returns the new generation.
    pub(crate) fn name(&mut self, id: u32, key: &FrontendKey) -> Result<u32, TableError> {
        let old = self.generation(id)?;
        let generation = conn::next_generation(old);
        let name = Name {
            address: codec::words(key.address),
            port: key.port.to_be(),
            protocol: codec::protocol(key.protocol),
            pad: 0,
            generation,
        };
        self.names.set(id, Raw(name), 0).map_err(operation("write", maps::NAMES, key))?;
        if old != 0 {
            self.reset_counters(id)?;
        }
        Ok(generation)
    }

    pub(crate) fn generation(&self, id: u32) -> Result<u32, TableError> {
        self.names.get(&id, 0).map(|n| n.0.generation).map_err(operation("read", maps::NAMES, id))
    }

    fn reset_counters(&mut self, id: u32) -> Result<(), TableError> {
        let failed = || operation("write", maps::REDIRECTED, id);
        let cpus = self.redirected.get(&id, 0).map_err(failed())?.len();
        let zero = PerCpuValues::try_from(vec![0; cpus]).map_err(|e| failed()(MapError::IoError(e)))?;
        self.redirected.set(id, zero, 0).map_err(failed())?;
        for kind in 0..rare::KINDS {
            gone(self.rare.remove(&Raw(RareKey { id, kind }))).map_err(operation(
                "delete",
                maps::RARE,
                id,
            ))?;
        }
        Ok(())
    }

    pub(crate) fn redirected(&self, id: u32) -> Result<u64, TableError> {
        self.redirected.get(&id, 0).map(|v| sum(&v)).map_err(operation("read", maps::REDIRECTED, id))
    }

    fn rare(&self, id: u32, kind: u32) -> Result<u64, TableError> {
        let found =
            found(self.rare.get(&Raw(RareKey { id, kind }), 0)).map_err(operation("read", maps::RARE, id))?;
        Ok(found.map_or(0, |v| sum(&v)))
    }

    /// Everything counted for one frontend id.
    pub(crate) fn counters(&self, id: u32) -> Result<Counters, TableError> {
        Ok(Counters {
            redirected: self.redirected(id)?,
            qos_overflow: self.rare(id, rare::QOS_OVERFLOW)?,
            no_backend: self.rare(id, rare::NO_BACKEND)?,
            skipped: self.rare(id, rare::SKIPPED)?,
        })
    }

    /// The counters that seldom count, by frontend id; `redirected` is zero.
    pub(crate) fn rare_counters(&self) -> Result<BTreeMap<u32, Counters>, TableError> {
        let mut all = BTreeMap::<u32, Counters>::new();
        for row in self.rare.iter() {
            let (Raw(key), values) = row.map_err(operation("read", maps::RARE, "all rows"))?;
            let counters = all.entry(key.id).or_default();
            match key.kind {
                rare::QOS_OVERFLOW => counters.qos_overflow = sum(&values),
                rare::NO_BACKEND => counters.no_backend = sum(&values),
                rare::SKIPPED => counters.skipped = sum(&values),
                _ => {}
            }
        }
        Ok(all)
    }

    pub(crate) fn stat(&self, index: u32) -> Result<u64, TableError> {
        debug_assert!(index < stat::COUNT);
        self.stats.get(&index, 0).map(|v| sum(&v)).map_err(operation("read", maps::STATS, index))
    }

    /// A QoS window that is already there goes on.
    pub(crate) fn add_window(&mut self, service_id: u32) -> Result<(), TableError> {
        let failed = || operation("write", maps::QOS, service_id);
        if found(self.qos.get(&service_id, 0)).map_err(failed())?.is_none() {
            self.qos.insert(service_id, 0, 0).map_err(failed())?;
        }
        Ok(())
    }

    pub(crate) fn remove_window(&mut self, service_id: u32) -> Result<(), TableError> {
        gone(self.qos.remove(&service_id)).map_err(operation("delete", maps::QOS, service_id))
    }

    pub(crate) fn windows(&self) -> Result<BTreeSet<u32>, TableError> {
        self.qos.keys().collect::<Result<_, _>>().map_err(operation("read", maps::QOS, "all keys"))
    }

    pub(crate) fn add_skip(&mut self, service_id: u32, client: ClientId) -> Result<(), TableError> {
        self.skips.insert(skip_key(service_id, client), 1, 0).map_err(operation(
            "write",
            maps::SKIPS,
            service_id,
        ))
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

    pub(crate) fn set_control(&mut self, bit: u32, on: bool) -> Result<(), TableError> {
        let failed = || operation("write", maps::CONTROL, "switches");
        let mut control = self.control.get(&0, 0).map_err(failed())?;
        control.0.flags = if on { control.0.flags | bit } else { control.0.flags & !bit };
        self.control.set(0, control, 0).map_err(failed())
    }

    pub(crate) fn set_policy(&mut self, id: u32, policy: Option<&PolicyName>) -> Result<(), TableError> {
        match policy {
            Some(policy) => self.policies.insert(id, Raw(raw_policy(policy)), 0).map_err(operation(
                "write",
                maps::POLICIES,
                &policy.name,
            )),
            None => gone(self.policies.remove(&id)).map_err(operation("delete", maps::POLICIES, id)),
        }
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
