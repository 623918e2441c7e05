//! Rows that layers share: exempt clients by service id, and QoS windows by owner. Counts who needs them.
//!
//! A row is there before the first layer that needs it. A row of an exempt client goes after the last. A window stays with its
//! owner until its second is over, so that a policy which comes back within it finds what it has used already.

use std::collections::{BTreeMap, BTreeSet};

use balancing_abi::sockets::maps;

use super::{TableError, pins::Pins};
use crate::model::{ClientId, Entry, FrontendKey, Layer};

/// The row of an exempt client.
type Skip = (u32, ClientId);

/// Users of each row.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    skips: BTreeMap<Skip, u32>,
    /// Rows that nobody needs and that could not be deleted yet.
    stale: BTreeSet<Skip>,
    windows: BTreeMap<u64, Window>,
    free_windows: Vec<u32>,
}

/// A window that has an owner.
#[derive(Debug)]
struct Window {
    index: u32,
    users: u32,
    /// The last user is gone and a grace period is over since: no program grants from it any more.
    is_quiet: bool,
}

impl Rows {
    /// Takes over what is there, with the layers that use it. Service id 0 is nobody's.
    pub(crate) fn adopt(pins: &Pins, entries: &BTreeMap<FrontendKey, Entry>, skips: &BTreeSet<Skip>) -> Self {
        let mut rows = Self::default();
        for (index, owner) in (0..).zip(pins.windows()) {
            let window = Window { index, users: 0, is_quiet: false };
            if owner == 0 || rows.windows.contains_key(&owner) {
                rows.free_windows.push(index);
            } else {
                rows.windows.insert(owner, window);
            }
        }
        // The first ones are given away first.
        rows.free_windows.reverse();
        for layer in entries.values().flat_map(|entry| &entry.layers) {
            for client in &layer.skip {
                *rows.skips.entry((layer.service_id, *client)).or_default() += 1;
            }
            if layer.qos_limit.is_some()
                && let Some(window) = rows.windows.get_mut(&layer.window)
            {
                window.users += 1;
            }
        }
        let unused = skips.iter().filter(|row| row.0 != 0 && !rows.skips.contains_key(row));
        rows.stale = unused.copied().collect();
        rows
    }

    /// Number of rows of exempt clients.
    pub(crate) fn skips(&self) -> usize {
        self.skips.len() + self.stale.len()
    }

    /// Number of QoS windows.
    pub(crate) fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Makes the rows of a layer, all of them or, after an error, none; returns the index of its window, 0 without a limit.
    pub(crate) fn add(&mut self, pins: &mut Pins, layer: &Layer) -> Result<u32, TableError> {
        let mut added = Layer { skip: BTreeSet::new(), qos_limit: None, ..layer.clone() };
        let result = layer.skip.iter().try_for_each(|client| {
            let row = (layer.service_id, *client);
            if !self.skips.contains_key(&row) && !self.stale.remove(&row) {
                pins.add_skip(layer.service_id, *client)?;
            }
            *self.skips.entry(row).or_default() += 1;
            added.skip.insert(*client);
            Ok(())
        });
        let result = result.and_then(|()| match layer.qos_limit {
            Some(_) => self.window(pins, layer),
            None => Ok(0),
        });
        if result.is_err() {
            self.drop(pins, &added);
        }
        if !layer.skip.is_empty() {
            self.sweep(pins, Some(layer.service_id));
        }
        result
    }

    /// Deletes rows that nobody needs, those of one service id or all; what cannot be deleted is tried again.
    fn sweep(&mut self, pins: &mut Pins, service_id: Option<u32>) {
        self.stale.retain(|(id, client)| {
            service_id.is_some_and(|wanted| wanted != *id) || pins.remove_skip(*id, *client).is_err()
        });
    }

    /// One more user of a window.
    fn window(&mut self, pins: &mut Pins, layer: &Layer) -> Result<u32, TableError> {
        if let Some(window) = self.windows.get_mut(&layer.window) {
            window.users += 1;
            window.is_quiet = false;
            return Ok(window.index);
        }
        if self.free_windows.is_empty() {
            self.free_idle(pins);
        }
        let Some(index) = self.free_windows.pop() else {
            let capacity = self.windows.len() as u32;
            return Err(TableError::full(maps::QOS, capacity, format!("policy {}", layer.service_id)));
        };
        pins.set_window_owner(index, layer.window);
        self.windows.insert(layer.window, Window { index, users: 1, is_quiet: false });
        Ok(index)
    }

    /// Frees windows that nobody uses and whose second is over.
    fn free_idle(&mut self, pins: &mut Pins) {
        let now = monotonic_seconds();
        let idle = |window: &Window| window.users == 0 && window.is_quiet;
        let over = self.windows.extract_if(.., |_, w| idle(w) && pins.window_second(w.index) < now);
        let freed: Vec<u32> = over.map(|(_, window)| window.index).collect();
        for index in freed {
            pins.set_window_owner(index, 0);
            self.free_windows.push(index);
        }
    }

    /// A grace period is over: tries again what is left to delete, and frees windows.
    pub(crate) fn settle(&mut self, pins: &mut Pins) {
        self.sweep(pins, None);
        for window in self.windows.values_mut() {
            window.is_quiet = window.users == 0;
        }
        self.free_idle(pins);
    }

    /// Whether [`Rows::settle`] would have something to do.
    pub(crate) fn is_settled(&self) -> bool {
        self.stale.is_empty() && self.windows.values().all(|window| window.users > 0 || window.is_quiet)
    }

    /// Counts a layer less. While other layers of the service id have rows, those that nobody needs any more go at once. The
    /// last ones stay until a grace period is over: a program may be about to look one up for the layer that went,
    /// perhaps because the policy has another service id now.
    pub(crate) fn drop(&mut self, pins: &mut Pins, layer: &Layer) {
        for client in &layer.skip {
            let row = (layer.service_id, *client);
            if release(&mut self.skips, &row) {
                self.stale.insert(row);
            }
        }
        if self
            .skips
            .range((layer.service_id, ClientId::NetnsCookie(0))..)
            .next()
            .is_some_and(|(row, _)| row.0 == layer.service_id)
        {
            self.sweep(pins, Some(layer.service_id));
        }
        if layer.qos_limit.is_some()
            && let Some(window) = self.windows.get_mut(&layer.window)
        {
            window.users = window.users.saturating_sub(1);
        }
    }
}

/// Counts one user less; `true` for the last one.
fn release<K: Ord + Clone>(users: &mut BTreeMap<K, u32>, key: &K) -> bool {
    match users.get_mut(key) {
        Some(n) if *n > 1 => {
            *n -= 1;
            false
        }
        Some(_) => {
            users.remove(key);
            true
        }
        None => false,
    }
}

/// The clock of the windows.
fn monotonic_seconds() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    // A clock that cannot be read lets no second be over.
    now.map_or(0, |now| now.tv_sec().unsigned_abs())
}
