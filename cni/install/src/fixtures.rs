//! A host in a directory, for tests.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use crate::{
    conflist::Place,
    directory::Runtime,
    entry::Entry,
    keeper::{Choice, Settings},
};

/// A list as a primary writes it.
pub(crate) const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;
/// A plugin that answers.
pub(crate) const BINARY: &str = "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n";

/// Its directories of configurations, plugins and locks, and our program.
pub(crate) struct Host {
    pub(crate) place: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self { place: tempfile::tempdir().unwrap() };
        for name in ["net.d", "bin", "run", "var/lib/cni/results"] {
            fs::create_dir_all(host.path(name)).unwrap();
        }
        fs::write(host.path("source"), BINARY).unwrap();
        fs::set_permissions(host.path("source"), fs::Permissions::from_mode(0o755)).unwrap();
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            host: self.place.path().to_owned(),
            net_dir: self.path("net.d"),
            bin_dir: self.path("bin"),
            origins: ["--cni-net-dir", "--cni-bin-dir"].map(str::to_owned),
            binary: self.path("source"),
            run_dir: self.path("run"),
            choice: Choice::Auto,
            runtime: Runtime::Containerd,
            runtime_is_awaited: false,
            network: None,
            reads_drop_ins: None,
            entry: Entry::default().to_json(),
            place: Place::Last,
        }
    }

    pub(crate) fn list(&self) -> PathBuf {
        self.path("net.d/10-net.conflist")
    }
}
