//! The node as a call sees it: what the agent has told, the plugin's own configuration above it, defaults below.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use balancing_dataplane::{
    cgroup, mount,
    settings::{NodeSettings, PluginSettings, Told as _},
};

use crate::{config::Config, error::CniError, log::Log};

/// Where a bpffs usually is.
const USUAL_BPFFS: &str = "/sys/fs/bpf";
/// Where the cgroup2 hierarchy usually is; looked at before the mount table, which is long on a busy node.
const USUAL_ROOT: &str = "/sys/fs/cgroup";

/// What a call needs to know of the node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Mount point of bpffs.
    pub(crate) bpffs: PathBuf,
    /// Whether pods are hooked here at all.
    pub(crate) hooks_pods: bool,
    /// Namespaces whose pods are left alone.
    pub(crate) exclude_namespaces: BTreeSet<String>,
    /// The cgroup root of the configuration.
    own_root: Option<PathBuf>,
    /// That of the agent.
    told_root: Option<PathBuf>,
}

impl Node {
    /// Reads what the agent has told. What cannot be read counts as not told: an agent that has never run, or one of another
    /// version, keeps no pod from starting.
    pub(crate) fn read(config: &Config<'_>, log: &Log) -> Self {
        let told = NodeSettings::read(&config.run_dir).unwrap_or_else(|error| {
            log.warn(&format!("{error}; defaults are used"));
            None
        });
        Self::of(config, told)
    }

    fn of(config: &Config<'_>, told: Option<NodeSettings>) -> Self {
        let excluded = told.as_ref().map(|told| told.exclude_namespaces.clone());
        // An agent in a container may see it elsewhere.
        let bpffs = told
            .as_ref()
            .map(|told| told.bpffs.clone())
            .filter(|path| mount::is_bpffs(path).unwrap_or(false));
        Self {
            bpffs: config.bpffs.clone().or(bpffs).unwrap_or_else(|| PathBuf::from(USUAL_BPFFS)),
            hooks_pods: told.as_ref().is_none_or(|told| told.hooks_pods),
            exclude_namespaces: config.exclude_namespaces.clone().or(excluded).unwrap_or_default(),
            own_root: config.cgroup_root.clone(),
            told_root: told.map(|told| told.cgroup_root),
        }
    }

    /// The cgroup2 directory below which pods are looked for.
    pub(crate) fn cgroup_root(&self) -> Result<PathBuf, CniError> {
        if let Some(root) = &self.own_root {
            return if mount::is_cgroup2(root)? {
                Ok(root.clone())
            } else {
                Err(cgroup::Error::NotCgroup2 { path: root.clone() }.into())
            };
        }
        let usual = [self.told_root.as_deref(), Some(Path::new(USUAL_ROOT))];
        if let Some(found) = usual.into_iter().flatten().find(|path| mount::is_cgroup2(path).unwrap_or(false))
        {
            return Ok(found.to_owned());
        }
        Ok(mount::Mounts::read()?.cgroup2_root()?)
    }
}

/// Tells what this call works with, for whoever compares it with the agent's settings.
pub(crate) fn tell(config: &Config<'_>, log: &Log) {
    let settings = PluginSettings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        failure_policy: config.failure_policy.name().to_owned(),
        cgroup_root: config.cgroup_root.clone(),
        bpffs: config.bpffs.clone(),
        exclude_namespaces: config.exclude_namespaces.clone(),
    };
    if let Err(error) = settings.write(&config.run_dir) {
        log.debug(&error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> NodeSettings {
        NodeSettings {
            version: "1".to_owned(),
            abi: 2,
            hooks_pods: true,
            role: "node".to_owned(),
            scope: "all".to_owned(),
            cgroup_root: PathBuf::from("/told"),
            bpffs: PathBuf::from("/told"),
            exclude_namespaces: BTreeSet::from(["told".to_owned()]),
        }
    }

    fn node(keys: &str, told: Option<NodeSettings>) -> Node {
        let input = format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"balancing-cni"{keys}}}"#);
        Node::of(&Config::parse(input.as_bytes()).unwrap(), told)
    }

    #[test]
    fn the_agent_is_believed_unless_the_configuration_says_otherwise() {
        let alone = node("", None);
        assert_eq!((alone.bpffs.as_path(), alone.hooks_pods), (Path::new(USUAL_BPFFS), true));
        assert!(alone.exclude_namespaces.is_empty());
        let with = node("", Some(told()));
        assert_eq!(with.exclude_namespaces, told().exclude_namespaces);
        assert_eq!(with.bpffs, Path::new(USUAL_BPFFS), "a path that is no bpffs here is the agent's own");
        let own = node(r#","excludeNamespaces":[],"bpffs":"/b""#, Some(told()));
        assert!(own.exclude_namespaces.is_empty());
        assert_eq!(own.bpffs, Path::new("/b"));
        assert!(!node("", Some(NodeSettings { hooks_pods: false, ..told() })).hooks_pods);
    }
}
