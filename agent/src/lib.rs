//! The node agent: source → Snapshot → resolve → diff → data plane.
//!
//! It owns the shared tables, the links at the cgroup root and the adoption of pods. It never
//! touches a packet, and nothing it owns stops working when it stops.

pub mod api;
pub mod app;
pub mod attach;
pub mod cleanup;
pub mod client;
pub mod cluster;
pub mod config;
pub mod control;
pub mod convert;
pub mod ctl;
pub mod diff;
mod digest;
pub mod events;
pub mod explain;
pub mod http;
pub mod lock;
pub mod manifest;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod owner;
pub mod plan;
pub mod resolve;
pub mod run;
pub mod snapshot;
pub mod source;
pub mod view;
