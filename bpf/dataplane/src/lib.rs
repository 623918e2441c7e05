//! User-space half of the data plane: loads and pins programs, encodes the tables, makes links.
//!
//! It owns every kernel object of ours. It knows no policy and no Kubernetes object; what to program is
//! decided elsewhere and arrives as [`model`] types.

pub mod cgroup;
pub mod layout;
pub mod links;
#[cfg(feature = "loader")]
pub mod loader;
pub mod mount;
pub mod plugin_log;
#[cfg(feature = "loader")]
pub mod probe;
#[cfg(feature = "loader")]
pub mod proxy;
pub mod records;
pub mod settings;
#[cfg(feature = "loader")]
mod shape;
#[cfg(feature = "loader")]
mod sizes;
pub mod sys;
#[cfg(feature = "loader")]
pub mod tables;
#[cfg(test)]
#[cfg(feature = "loader")]
mod verifier;

pub use balancing_abi::model;
pub use balancing_abi::sockets::{ABI, OWN_PRIORITY};
