//! The node agent: source → Snapshot → resolve → diff → data plane.
//!
//! It owns the shared tables, the links at the cgroup root and the adoption of pods. It never
//! touches a packet, and nothing it owns stops working when it stops.

pub mod app;
pub mod attach;
pub mod cleanup;
pub mod cni;
pub mod config;
pub mod control;
pub mod controller;
pub mod dataplane;
pub mod dir;
pub mod error;
pub mod fabric;
mod feed;
pub mod http;
pub mod listen;
pub mod lock;
pub mod metrics;
pub mod monitor;
pub mod owner;
mod plugin_log;
pub mod probe;
pub mod reconcile;
pub mod run;
mod setting;
pub mod world;
