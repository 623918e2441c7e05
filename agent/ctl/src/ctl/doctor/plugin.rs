//! The CNI plugin against the agent.

use balancing_dataplane::{
    records::{Listing, Records, State},
    settings::{NodeSettings, PluginSettings},
};

use super::{Finding, Host, Level};

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let records = Records::new(host.run_dir).read_all();
    let mut findings = match (&host.node, &host.plugin) {
        (_, None) => untold(records.as_ref().ok()).into_iter().collect(),
        (Some(node), Some(plugin)) => compare(node, plugin),
        (None, Some(plugin)) => vec![Finding::ok("plugin", format!("version {}", plugin.version))],
    };
    match records {
        Ok(listing) => {
            let pending = listing.records.iter().filter(|record| matches!(record.state, State::Pending(_)));
            let pending = pending.count();
            if pending > 0 {
                let message =
                    format!("{pending} pods started without hooks; the agent hooks such pods afterwards");
                let remedy = format!("{} says why", host.run_dir.join("cni.log").display());
                findings.push(Finding::of(Level::Note, "plugin", message, remedy));
            }
            for error in &listing.broken {
                let remedy = "remove the file; the pod's links do not depend on it";
                findings.push(Finding::of(Level::Warning, "plugin", error.to_string(), remedy));
            }
        }
        Err(error) => findings.push(Finding::of(Level::Warning, "plugin", error.to_string(), "")),
    }
    findings
}

/// Without the plugin's settings its records tell whether it works.
fn untold(records: Option<&Listing>) -> Option<Finding> {
    let records = records?;
    let message = match records.records.len() + records.broken.len() {
        0 => "it has started no pod since the node's boot or `cleanup`: the agent hooks pods once they have started"
            .to_owned(),
        count => format!(
            "it has records of {count} attachments, and what settings it works with is not known before the next pod"
        ),
    };
    Some(Finding::of(Level::Note, "plugin", message, ""))
}

/// Settings of the two that differ, for `status`, too.
pub(in crate::ctl) fn differences(node: &NodeSettings, plugin: &PluginSettings) -> Vec<String> {
    let path = |name: &str, own: Option<&std::path::PathBuf>, told: &std::path::Path| {
        let own = own.filter(|own| own.as_path() != told)?;
        Some(format!("{name}: the agent has {}, the plugin {}", told.display(), own.display()))
    };
    let list = |names: &std::collections::BTreeSet<String>| {
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.iter().cloned().collect::<Vec<_>>().join(", ")
        }
    };
    let namespaces = plugin.exclude_namespaces.as_ref().filter(|own| **own != node.exclude_namespaces);
    let namespaces = namespaces.map(|own| {
        format!(
            "excluded namespaces: the agent has {}, the plugin {}",
            list(&node.exclude_namespaces),
            list(own)
        )
    });
    let found = [
        path("cgroup root", plugin.cgroup_root.as_ref(), &node.cgroup_root),
        path("bpffs", plugin.bpffs.as_ref(), &node.bpffs),
        namespaces,
    ];
    found.into_iter().flatten().collect()
}

fn compare(node: &NodeSettings, plugin: &PluginSettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for difference in differences(node, plugin) {
        let remedy = "the plugin's own configuration counts for pods that it starts; leave the key out there, and it follows the agent";
        findings.push(Finding::of(Level::Warning, "plugin", difference, remedy));
    }
    if node.version != plugin.version {
        let message = format!("the plugin is of version {}, the agent of {}", plugin.version, node.version);
        findings.push(Finding::of(
            Level::Warning,
            "plugin",
            message,
            "install the plugin of the agent's version",
        ));
    }
    if findings.is_empty() {
        let message = format!(
            "version {} has the agent's settings, failurePolicy {}",
            plugin.version, plugin.failure_policy
        );
        findings.push(Finding::ok("plugin", message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use balancing_dataplane::records::Error as RecordError;

    use super::*;

    fn settings() -> (NodeSettings, PluginSettings) {
        let node = NodeSettings {
            version: "1".to_owned(),
            abi: 2,
            hooks_pods: true,
            role: "node".to_owned(),
            scope: "all".to_owned(),
            cgroup_root: PathBuf::from("/c"),
            bpffs: PathBuf::from("/b"),
            exclude_namespaces: BTreeSet::from(["a".to_owned()]),
        };
        let plugin = PluginSettings {
            version: "1".to_owned(),
            failure_policy: "ignore".to_owned(),
            cgroup_root: None,
            bpffs: None,
            exclude_namespaces: None,
        };
        (node, plugin)
    }

    #[test]
    fn records_tell_of_a_plugin_without_settings() {
        assert!(untold(None).is_none(), "that they cannot be read is told");
        let message = |listing: Listing| untold(Some(&listing)).unwrap().message;
        assert!(message(Listing::default()).contains("has started no pod"));
        let source = std::io::Error::other("disk");
        let broken = RecordError::Io { operation: "read", path: PathBuf::from("/r"), source };
        let mut one = Listing::default();
        one.broken.push(broken);
        assert!(message(one).contains("records of 1 attachments"));
    }

    #[test]
    fn what_differs_is_told_with_both_values() {
        let (node, plugin) = settings();
        assert_eq!(compare(&node, &plugin)[0].level, Level::Ok);
        let same = PluginSettings { bpffs: Some(node.bpffs.clone()), ..plugin.clone() };
        assert!(differences(&node, &same).is_empty());
        let other = PluginSettings {
            cgroup_root: Some(PathBuf::from("/d")),
            exclude_namespaces: Some(BTreeSet::new()),
            version: "2".to_owned(),
            ..plugin
        };
        assert_eq!(
            differences(&node, &other),
            [
                "cgroup root: the agent has /c, the plugin /d",
                "excluded namespaces: the agent has a, the plugin none"
            ]
        );
        assert_eq!(compare(&node, &other).len(), 3);
    }
}
