//! Harness of the suites: network namespaces, cgroups, bpffs directories and processes of a test.
//!
//! Everything here is a guard: what a test makes is gone when the value is dropped, also when the test
//! panics. What a killed test left behind is swept by the next one. The harness decides nothing about
//! Balancing itself; it knows the agent only as a program with arguments and a readiness condition.
//!
//! Functions panic instead of returning errors: a test that cannot set its world up has failed, and the
//! panic names what was missing. Only what a test wants to look at comes back as a value, so a client's
//! socket calls return `Result<_, Errno>`.
//!
//! ```no_run
//! use balancing_tests::*;
//!
//! if !require_kernel() {
//!     return;
//! }
//! let namespace = NetNs::new();
//! namespace.add_address("192.0.2.1/32", "lo");
//! let server = EchoServer::start(&namespace, "alpha", &["192.0.2.1:80".parse().unwrap()]);
//! let cgroup = Cgroup::new("example");
//! let mut client = Client::start(&Place::default().in_netns(&namespace).in_cgroup(&cgroup));
//! let socket = client.open(Kind::Tcp4);
//! assert_eq!(client.connect(socket, server.address()), Ok(()));
//! assert_eq!(client.receive(socket).unwrap().data, "alpha\n");
//! ```

mod agent;
mod beside;
mod bpffs;
mod cgroup;
mod client;
mod cluster;
mod controller;
pub mod dataplane;
pub mod fabric;
mod flannel;
pub mod frames;
pub mod fuzz;
pub mod history;
mod http;
mod kernel;
mod leftovers;
pub mod libcni;
mod must;
mod netns;
mod node;
mod objects;
pub mod pinned;
mod place;
mod plugin;
mod process;
mod programs;
mod prometheus;
pub mod proxied;
mod random;
pub mod redirected;
mod server;
pub mod sock;
mod temp_dir;
pub mod traced;
pub mod tunnel;
mod underlay;
mod usage;
mod wait;

pub use agent::Agent;
pub use beside::beside;
pub use bpffs::Bpffs;
pub use cgroup::Cgroup;
pub use client::Client;
pub use cluster::{ApiClient, ControlPlane, ControlPlaneBuilder, Kubectl, Refusal};
pub use controller::Controller;
pub use flannel::{Flannel, state as tunnel_state};
pub use http::{http_get, http_post, metric};
pub use kernel::require_kernel;
pub use netns::NetNs;
pub use nix::errno::Errno;
pub use node::{Node, Sandbox, address, eventually, eventually_within};
pub use objects::Object;
pub use pinned::Pinned;
pub use place::Place;
pub use plugin::Plugin;
pub use process::Process;
pub use programs::{control_plane_program, program, tool};
pub use prometheus::{Job, Prometheus, Series, promtool};
pub use random::Random;
pub use server::EchoServer;
pub use sock::{
    churn::{Churn, ChurnReport, Exchange, Sample, monotonic_ns},
    protocol::{Connect, Kind, Message, Receive, Socket},
    shared::{Heard, Shared},
};
pub use temp_dir::TempDir;
pub use underlay::Underlay;
pub use usage::{assert_waiting_costs_nothing, cpu, memory};
pub use wait::{undisturbed, wait_for, wait_until, when_free};
