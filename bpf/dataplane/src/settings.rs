//! What agent and plugin tell each other about their settings, each in a file of its own in the run directory.
//!
//! The agent writes `node.json` when it starts; the plugin reads it and works with it unless its own configuration says
//! otherwise. The plugin writes `plugin.json`, what it worked with last; commands compare the two. Both files are replaced by
//! rename, so that nobody reads half of one, and only when they change. Neither is needed: what is missing has defaults.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Why settings cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The content is not what it should be.
    #[error("{path} does not hold the settings that belong there: {source}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What the node is, as its agent has settled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSettings {
    /// Version of the agent.
    pub version: String,
    /// Number of the ABI of its programs and tables.
    pub abi: u32,
    /// Whether pods are hooked on this host: not with `--scope host`, and not outside the cluster.
    pub hooks_pods: bool,
    /// `--role`.
    pub role: String,
    /// `--scope`.
    pub scope: String,
    /// Root of the cgroup2 hierarchy as the agent sees it.
    pub cgroup_root: PathBuf,
    /// Mount point of bpffs as the agent sees it.
    pub bpffs: PathBuf,
    /// Namespaces whose pods are never hooked.
    pub exclude_namespaces: BTreeSet<String>,
}

/// What the plugin works with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginSettings {
    /// Version of the plugin.
    pub version: String,
    /// `failurePolicy`.
    pub failure_policy: String,
    /// Root of the cgroup2 hierarchy, where its configuration names one.
    #[serde(default)]
    pub cgroup_root: Option<PathBuf>,
    /// Mount point of bpffs, where its configuration names one.
    #[serde(default)]
    pub bpffs: Option<PathBuf>,
    /// Namespaces whose pods it leaves alone, where its configuration names any.
    #[serde(default)]
    pub exclude_namespaces: Option<BTreeSet<String>>,
}

/// Settings in a file of the run directory.
pub trait Told: Serialize + DeserializeOwned + PartialEq {
    /// Name of the file.
    const FILE: &'static str;

    /// Reads them; `None`: nobody has told any.
    ///
    /// # Errors
    /// [`Error`].
    fn read(run_dir: &Path) -> Result<Option<Self>, Error> {
        let path = run_dir.join(Self::FILE);
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("read", &path)(source)),
        };
        serde_json::from_slice(&content).map(Some).map_err(|source| Error::Content { path, source })
    }

    /// Writes them unless they are written already. Several writers may do so at the same time.
    ///
    /// # Errors
    /// [`Error`].
    fn write(&self, run_dir: &Path) -> Result<(), Error> {
        if Self::read(run_dir).is_ok_and(|told| told.as_ref() == Some(self)) {
            return Ok(());
        }
        let path = run_dir.join(Self::FILE);
        let temporary = run_dir.join(format!("{}.{}.tmp", Self::FILE, std::process::id()));
        let content = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Content { path: path.clone(), source })?;
        DirBuilder::new().recursive(true).mode(0o755).create(run_dir).map_err(io_error("make", run_dir))?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&content))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(io_error("write", &path))
    }
}

impl Told for NodeSettings {
    const FILE: &'static str = "node.json";
}

impl Told for PluginSettings {
    const FILE: &'static str = "plugin.json";
}

fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(version: &str) -> PluginSettings {
        PluginSettings {
            version: version.to_owned(),
            failure_policy: "ignore".to_owned(),
            cgroup_root: None,
            bpffs: None,
            exclude_namespaces: Some(BTreeSet::from(["kube-system".to_owned()])),
        }
    }

    #[test]
    fn told_read_replaced_and_never_half() {
        let dir = std::env::temp_dir().join(format!("balancing-settings-{}", std::process::id()));
        assert_eq!(PluginSettings::read(&dir).unwrap(), None);
        plugin("1").write(&dir).unwrap();
        assert_eq!(PluginSettings::read(&dir).unwrap(), Some(plugin("1")));
        let before = fs::metadata(dir.join("plugin.json")).unwrap();
        plugin("1").write(&dir).unwrap();
        let inode = |file: &fs::Metadata| std::os::unix::fs::MetadataExt::ino(file);
        assert_eq!(inode(&before), inode(&fs::metadata(dir.join("plugin.json")).unwrap()), "nothing changed");
        plugin("2").write(&dir).unwrap();
        assert_eq!(PluginSettings::read(&dir).unwrap(), Some(plugin("2")));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::write(dir.join("plugin.json"), "{}").unwrap();
        let error = PluginSettings::read(&dir).unwrap_err().to_string();
        assert!(error.contains("plugin.json") && error.contains("version"), "{error}");
        // A file that cannot be read is no reason to keep it.
        plugin("3").write(&dir).unwrap();
        assert_eq!(PluginSettings::read(&dir).unwrap(), Some(plugin("3")));
        fs::remove_dir_all(&dir).unwrap();
    }
}
