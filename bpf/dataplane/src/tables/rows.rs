//! Rows that layers share: exempt clients and QoS windows, by service id. Counts who needs them.
//!
//! A row is there before the first layer that needs it and goes after the last.

use std::collections::{BTreeMap, BTreeSet};

use super::{TableError, pins::Pins};
use crate::model::{ClientId, Layer};

/// Users of each row.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    skips: BTreeMap<(u32, ClientId), u32>,
    windows: BTreeMap<u32, u32>,
}

impl Rows {
    /// Counts a layer whose rows are there already.
    pub(crate) fn count(&mut self, layer: &Layer) {
        for client in &layer.skip {
            *self.skips.entry((layer.service_id, *client)).or_default() += 1;
        }
        if layer.qos_limit.is_some() {
            *self.windows.entry(layer.service_id).or_default() += 1;
        }
    }

    /// Number of rows of exempt clients.
    pub(crate) fn skips(&self) -> usize {
        self.skips.len()
    }

    /// Number of QoS windows.
    pub(crate) fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Deletes found rows that no layer uses. Service id 0 is nobody's.
    pub(crate) fn sweep(
        &self,
        pins: &mut Pins,
        skips: &BTreeSet<(u32, ClientId)>,
        windows: &BTreeSet<u32>,
    ) -> Result<(), TableError> {
        for row @ (service_id, client) in skips {
            if *service_id != 0 && !self.skips.contains_key(row) {
                pins.remove_skip(*service_id, *client)?;
            }
        }
        for service_id in windows {
            if !self.windows.contains_key(service_id) {
                pins.remove_window(*service_id)?;
            }
        }
        Ok(())
    }

    /// Makes the rows of a layer: all of them or, after an error, none.
    pub(crate) fn add(&mut self, pins: &mut Pins, layer: &Layer) -> Result<(), TableError> {
        let mut added = Layer { skip: BTreeSet::new(), qos_limit: None, ..layer.clone() };
        let result = layer.skip.iter().try_for_each(|client| {
            let row = (layer.service_id, *client);
            if !self.skips.contains_key(&row) {
                pins.add_skip(layer.service_id, *client)?;
            }
            *self.skips.entry(row).or_default() += 1;
            added.skip.insert(*client);
            Ok(())
        });
        let result = result.and_then(|()| match layer.qos_limit {
            Some(_) if !self.windows.contains_key(&layer.service_id) => pins.add_window(layer.service_id),
            _ => Ok(()),
        });
        if let Err(error) = result {
            self.drop(pins, &added)?;
            return Err(error);
        }
        if layer.qos_limit.is_some() {
            *self.windows.entry(layer.service_id).or_default() += 1;
        }
        Ok(())
    }

    /// Counts a layer less and deletes the rows that nobody needs any more.
    pub(crate) fn drop(&mut self, pins: &mut Pins, layer: &Layer) -> Result<(), TableError> {
        for client in &layer.skip {
            if release(&mut self.skips, &(layer.service_id, *client)) {
                pins.remove_skip(layer.service_id, *client)?;
            }
        }
        if layer.qos_limit.is_some() && release(&mut self.windows, &layer.service_id) {
            pins.remove_window(layer.service_id)?;
        }
        Ok(())
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
