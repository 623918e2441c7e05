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

/// Keys that an entry in force has and another one says otherwise, with their values: whoever set them by hand loses them.
#[must_use]
pub fn overwritten(old: &str, new: &str) -> Vec<String> {
    let keys = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let new = keys(new);
    let differ = keys(old).into_iter().filter(|(key, value)| new.get(key) != Some(value));
    differ.map(|(key, value)| format!("{key} {value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_keys_that_get_lost_are_told() {
        let new = Entry::default().to_json();
        let by_hand = new.replace("\"ignore\"", "\"fail\",\"logLevel\":\"debug\"");
        assert_eq!(overwritten(&by_hand, &new), ["failurePolicy \"fail\"", "logLevel \"debug\""]);
        assert!(overwritten(&new, &new).is_empty() && overwritten("{", &new).is_empty());
    }

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
