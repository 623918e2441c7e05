//! Puts the CNI plugin on a node and keeps it there.
//!
//! ```text
//! files → directory (which network) → placement (what to change) → files
//! ```

pub mod binary;
pub mod conflist;
pub mod directory;
pub mod fight;
pub mod placement;
pub mod replace;
pub mod store;
