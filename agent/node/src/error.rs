//! Why an agent cannot start or go on.

use std::{io, path::PathBuf};

use balancing_dataplane::{cgroup, loader::LoadError, mount, settings, tables::TableError};
use balancing_kube::client::ClientError;

use crate::{
    control::ControlError, dir::DirSourceError, http::HttpError, listen::BindError, lock::LockError,
};

/// Why the agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// bpffs or cgroup2.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// Programs or maps.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Tables.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The source.
    #[error(transparent)]
    Source(#[from] DirSourceError),
    /// The credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another agent, or the run directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Health and metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The addresses of both.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The cgroup root.
    #[error(
        "--cgroup-root: {0}; give the directory where the cgroup2 hierarchy is mounted, or leave the flag out"
    )]
    CgroupRoot(cgroup::Error),
    /// Only a part of the cgroup hierarchy can be seen.
    #[error(
        "{path} is not the root of the cgroup2 hierarchy: only what runs below it would be hooked; in a container mount the \
         host's /sys/fs/cgroup and name the mount with --cgroup-root",
        path = path.display()
    )]
    PartOfCgroups {
        /// The directory.
        path: PathBuf,
    },
    /// A directory of ours that cannot be examined.
    #[error("cannot examine {path}: {source}", path = path.display())]
    Place {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory that should be ours, and others can change.
    #[error(
        "{path} belongs to user {owner} with mode {mode:o}: others could replace what is in it; remove it, or give it to \
         root with mode 755",
        path = path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// The agent runs as a pod without `hostNetwork`.
    #[error(
        "the agent is in the network namespace of pod {0}, not in the host's: processes of the host would not be hooked; set \
         hostNetwork: true in its pod, or use --scope pods"
    )]
    PodNamespace(String),
    /// What the plugin is to know cannot be written.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// The data-plane thread cannot start.
    #[error("cannot start the data-plane thread: {0}")]
    Thread(io::Error),
    /// It is gone.
    #[error("the data-plane thread has ended; the log says why")]
    Ended,
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}
