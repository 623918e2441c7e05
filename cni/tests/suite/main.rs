//! The built plugin, called as a runtime calls it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod attach;
mod cgroups;
#[path = "../../../bpf/dataplane/tests/kernel/fixture.rs"]
mod fixture;
mod forget;
mod hosts;
mod plugin;
mod pods;
mod protocol;
mod refuse;
mod results;
