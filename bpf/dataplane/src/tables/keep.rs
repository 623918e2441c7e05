//! Keeps the maps pinned: commands, the plugin's programs and the next agent find them by their pins.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use aya::maps::MapError;
use balancing_abi::sockets::maps;

use super::TableError;
use crate::{layout::Layout, sys};

/// The maps of one ABI, held open.
pub struct MapPins(Vec<(PathBuf, OwnedFd)>);

impl MapPins {
    /// Opens every map by its pin.
    ///
    /// # Errors
    /// [`TableError::Open`].
    pub fn open(layout: &Layout) -> Result<Self, TableError> {
        let open = |name: &&str| {
            let path = layout.maps().join(name);
            match sys::obj_get(&path) {
                Ok(map) => Ok((path, map)),
                Err(source) => Err(TableError::Open { path, source: Box::new(MapError::IoError(source)) }),
            }
        };
        maps::ALL.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Pins again what somebody has unpinned. Returns how many that were.
    ///
    /// # Errors
    /// [`TableError::Open`], naming the pin.
    pub fn mend(&self) -> Result<usize, TableError> {
        let mut mended = 0;
        for (path, map) in self.0.iter().filter(|(path, _)| fs::symlink_metadata(path).is_err()) {
            let pinned = sys::obj_pin(map.as_fd(), path);
            pinned.map_err(|source| TableError::Open {
                path: path.clone(),
                source: Box::new(MapError::IoError(source)),
            })?;
            mended += 1;
        }
        Ok(mended)
    }
}
