//! Where a process of a test runs.

use std::{path::PathBuf, process::Command};

use crate::{Cgroup, NetNs, programs::program};

/// A network namespace and a cgroup for a process; by default those of the test itself.
///
/// Sockets take both from the process that makes them, and on cgroup v2 all threads of a process share
/// its cgroup. So whoever has to connect from a certain cgroup must be a process of its own.
#[derive(Clone, Debug, Default)]
pub struct Place {
    netns: Option<PathBuf>,
    cgroup: Option<PathBuf>,
}

impl Place {
    /// In that network namespace.
    #[must_use]
    pub fn in_netns(mut self, namespace: &NetNs) -> Self {
        self.netns = Some(namespace.path());
        self
    }

    /// In that cgroup.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.path().to_owned());
        self
    }

    /// A command that enters the place and becomes the given program; its process id stays the same.
    /// Arguments added to it are the program's.
    #[must_use]
    pub fn command(&self, program_path: impl Into<PathBuf>) -> Command {
        let mut command = self.helper("exec");
        command.arg(program_path.into());
        command
    }

    /// The socket helper in one of its modes, at this place.
    pub(crate) fn helper(&self, mode: &str) -> Command {
        let mut command = Command::new(program("sock"));
        command.arg(mode);
        for (flag, path) in [("--cgroup", &self.cgroup), ("--netns", &self.netns)] {
            if let Some(path) = path {
                command.arg(flag).arg(path);
            }
        }
        command
    }
}
