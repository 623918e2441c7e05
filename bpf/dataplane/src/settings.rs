//! What agent and plugin tell each other about their settings, each in a file of its own in the run directory.
//!
//! The agent writes `node.json` when it starts; the plugin reads it and works with it unless its own configuration says
//! otherwise. The plugin writes `plugin.json`, what it worked with last; commands compare the two. Both files are replaced by
//! rename, so that nobody reads half of one, and only when they change. Neither is needed: what is missing has defaults.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt},
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

    /// Writes them unless they are written already, or somebody else tells his just now. A writer that is killed leaves
    /// one file at most, however many are: the next one takes it.
    ///
    /// # Errors
    /// [`Error`].
    fn write(&self, run_dir: &Path) -> Result<(), Error> {
        if Self::read(run_dir).is_ok_and(|told| told.as_ref() == Some(self)) {
            return Ok(());
        }
        let path = run_dir.join(Self::FILE);
        let temporary = run_dir.join(format!("{}.tmp", Self::FILE));
        let content = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Content { path: path.clone(), source })?;
        DirBuilder::new().recursive(true).mode(0o755).create(run_dir).map_err(io_error("make", run_dir))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)
            .map_err(io_error("write", &temporary))?;
        publish(file, &content, &temporary, &path).map_err(io_error("write", &path))
    }
}

/// Fills a file that others may have opened too, and gives it its name.
fn publish(mut file: File, content: &[u8], temporary: &Path, path: &Path) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let (held, found) = (file.metadata()?, fs::symlink_metadata(temporary));
    if !found.is_ok_and(|found| (found.dev(), found.ino()) == (held.dev(), held.ino())) {
        // Whoever had it before has published it.
        return Ok(());
    }
    file.set_len(0)?;
    file.write_all(content)?;
    fs::rename(temporary, path)
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

    #[test]
    fn many_writers_leave_one_whole_file_and_a_killed_one_nothing_that_grows() {
        let dir = std::env::temp_dir().join(format!("balancing-settings-many-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // Who meets another writer leaves it to that one, so the first file may come after a write has returned.
        plugin("first").write(&dir).unwrap();
        // What a writer that was killed has left.
        fs::write(dir.join("plugin.json.tmp"), "{\"version\": \"of one that was killed\", and half a li")
            .unwrap();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let dir = &dir;
                scope.spawn(move || {
                    for turn in 0..200 {
                        plugin(&"x".repeat(writer * 100 + turn)).write(dir).unwrap();
                        assert!(PluginSettings::read(dir).unwrap().is_some());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
