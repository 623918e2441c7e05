//! Links, locks and cgroups on the running kernel. Needs root, cgroup2 and bpffs.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod ancestors;
mod cgroups;
mod fixture;
mod links;
mod sweep;
mod sys;
