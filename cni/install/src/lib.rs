//! Puts the CNI plugin on a node and keeps it there.
//!
//! ```text
//! files → directory (which network) → placement (what to change) → files
//! ```

pub mod binary;
mod cache;
pub mod conflist;
mod diff;
pub mod directory;
pub mod entry;
pub mod fight;
#[cfg(test)]
mod fixtures;
pub mod keeper;
mod lock;
pub mod placement;
pub mod preset;
pub mod replace;
mod standing;
pub mod store;
mod temporary;
pub mod trust;
pub mod uninstall;
pub mod watch;
