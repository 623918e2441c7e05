//! The installer of the CNI plugin on a node's directories: the real agent by command and while it runs, beside what network
//! plugins and runtimes do there. Rows of `docs/cni-cases.md` give tests their names.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "cni_install/beside.rs"]
mod beside;
#[path = "cni_install/command.rs"]
mod command;
#[path = "cni_install/cri.rs"]
mod cri;
#[path = "cni_install/disk.rs"]
mod disk;
#[path = "cni_install/events.rs"]
mod events;
#[path = "cni_install/forgotten.rs"]
mod forgotten;
#[path = "cni_install/host.rs"]
mod host;
#[path = "cni_install/keep.rs"]
mod keep;
#[path = "cni_install/life.rs"]
mod life;
#[path = "cni_install/runtime.rs"]
mod runtime;
