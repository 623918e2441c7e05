//! The node agent: source → Snapshot → resolve → diff → data plane.
//!
//! It owns the shared tables, the links at the cgroup root and the adoption of pods. It never
//! touches a packet, and nothing it owns stops working when it stops.

pub mod app;
pub mod attach;
pub mod cleanup;
pub mod client;
pub mod config;
pub mod control;
pub mod ctl;
pub mod diff;
pub mod explain;
pub mod lock;
pub mod manifest;
pub mod names;
pub mod objects;
pub mod owner;
pub mod plan;
pub mod resolve;
pub mod run;
pub mod snapshot;
pub mod source;
pub mod view;
