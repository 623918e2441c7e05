//! Our entry in a network configuration. Pure.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Map, Value, json};

use crate::conflist::PLUGIN;

/// What the plugin is told by its configuration; what is not set it takes from the node's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// `failurePolicy`: a pod that cannot be attached does not start.
    pub must_attach: bool,
    /// `excludeNamespaces`, where they differ from the node's.
    pub exclude_namespaces: Option<BTreeSet<String>>,
    /// `bpffs`, `cgroupRoot`, `runDir` and `logLevel`.
    pub paths: Paths,
    /// `logLevel`
    pub log_level: Option<String>,
}

/// Paths that differ from the usual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// `bpffs`
    pub bpffs: Option<PathBuf>,
    /// `cgroupRoot`
    pub cgroup_root: Option<PathBuf>,
    /// `runDir`
    pub run_dir: Option<PathBuf>,
}

impl Entry {
    /// The entry as JSON on one line. Both capabilities are asked for: a runtime that has none sends none.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut keys = Map::new();
        keys.insert("type".to_owned(), PLUGIN.into());
        keys.insert(
            "capabilities".to_owned(),
            json!({"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true}),
        );
        let policy = if self.must_attach { "fail" } else { "ignore" };
        keys.insert("failurePolicy".to_owned(), policy.into());
        if let Some(names) = &self.exclude_namespaces {
            keys.insert("excludeNamespaces".to_owned(), names.iter().cloned().collect());
        }
        let paths = &self.paths;
        for (key, path) in
            [("bpffs", &paths.bpffs), ("cgroupRoot", &paths.cgroup_root), ("runDir", &paths.run_dir)]
        {
            if let Some(path) = path {
                keys.insert(key.to_owned(), path.to_string_lossy().into());
            }
        }
        if let Some(level) = &self.log_level {
            keys.insert("logLevel".to_owned(), level.as_str().into());
        }
        Value::Object(keys).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_not_written() {
        let entry: Value = serde_json::from_str(&Entry::default().to_json()).unwrap();
        let expected = json!({
            "type": "balancing-cni", "failurePolicy": "ignore",
            "capabilities": {"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true},
        });
        assert_eq!(entry, expected);
        let all = Entry {
            must_attach: true,
            exclude_namespaces: Some(BTreeSet::from(["kube-system".to_owned()])),
            paths: Paths {
                bpffs: Some("/b".into()),
                cgroup_root: Some("/c".into()),
                run_dir: Some("/r".into()),
            },
            log_level: Some("debug".to_owned()),
        };
        let entry: Value = serde_json::from_str(&all.to_json()).unwrap();
        assert_eq!(entry["failurePolicy"], "fail");
        assert_eq!(entry["excludeNamespaces"], json!(["kube-system"]));
        assert_eq!((&entry["runDir"], &entry["logLevel"]), (&json!("/r"), &json!("debug")));
    }
}
