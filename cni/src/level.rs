//! How much the plugin logs.

/// How much is written, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Commands that failed.
    Error,
    /// Pods that run without redirection, leftovers that cannot be removed.
    Warn,
    /// One line for each pod.
    Info,
    /// Why something was not done.
    Debug,
    /// As debug; accepted because the agent has it.
    Trace,
}

impl Level {
    pub(crate) const NAMES: [(&'static str, Self); 5] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// As a setting has it.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| *name)
    }
}
