//! What Balancing decides, in plain data: objects and the rules that they must keep, the snapshot of the cluster, precedence,
//! and the table that the kernel shall have.
//!
//! Pure: the same input gives the same output. No runtime, no API client, no kernel, no clock; files and sockets are for
//! those who call.

pub mod bounds;
pub mod claims;
pub mod control;
pub mod diff;
pub mod digest;
pub mod explain;
pub mod fabric_view;
pub mod failure;
pub mod health;
pub mod kinds;
pub mod manifest;
pub mod membership;
pub mod monitor;
pub mod names;
pub mod objects;
pub mod plan;
pub mod resolve;
pub mod snapshot;
pub mod source;
pub mod view;
