//! The installer of the CNI plugin.

use std::fmt;

use balancing_cni_install::keeper::Standing;

use super::Out;

/// The installer at one moment; everything is absent in an agent that does not install the plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginSample(Option<Installed>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Installed {
    in_force: bool,
    writes: u64,
    fights: u64,
}

impl PluginSample {
    /// Of what the installer says.
    #[must_use]
    pub fn of(standing: Option<&Standing>) -> Self {
        Self(standing.map(|standing| Installed {
            in_force: standing.is_ready(),
            writes: standing.writes,
            fights: standing.fights,
        }))
    }

    pub(super) fn write(&self, out: &mut Out<'_>) -> fmt::Result {
        let installed = self.0;
        out.maybe(
            "cni_in_force",
            "Whether pods that start now get the CNI plugin",
            installed.map(|found| u64::from(found.in_force)),
        )?;
        out.count(
            "cni_writes",
            "Files that the installer of the CNI plugin has written or removed",
            installed.map(|found| found.writes),
        )?;
        out.count(
            "cni_fights",
            "Times that somebody else began to take the CNI plugin out again and again",
            installed.map(|found| found.fights),
        )
    }
}
