//! Single values of settings: what they may be, and what is said of those that are not.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::SourceConfig;
use crate::listen::{Listen, ListenAddress};
use balancing_core::{
    manifest::name::{DNS_SUBDOMAIN, is_dns_subdomain},
    resolve::Role,
};

/// Where a host outside the cluster keeps its state.
const STATE_DIR: &str = "/var/lib/balancing";
const MIN_CONNECTIONS: u32 = 1 << 16;

/// Collects problems; a wrong value is replaced by its default so that the others are looked at too.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<String>);

impl Problems {
    /// The capacity of a table.
    pub(super) fn rows(&mut self, flag: &str, value: Option<&str>, default: u32) -> u32 {
        self.number(flag, value, default, 1..=u32::MAX / 64)
    }

    pub(super) fn listen(&mut self, flag: &str, value: &str) -> Option<ListenAddress> {
        if value.is_empty() || value == "off" {
            return None;
        }
        let address = value.parse().map_err(|error| self.0.push(format!("{flag} {value}: {error}")));
        address.ok()
    }

    /// Where health and metrics are served: two listeners cannot share a port.
    pub(super) fn listeners(&mut self, http: &str, metrics: &str) -> Listen {
        let listen = Listen { http: self.listen("--http", http), metrics: self.listen("--metrics", metrics) };
        if let (Some(one), Some(other)) = (listen.http, listen.metrics)
            && one.overlaps(other)
        {
            self.0.push(format!(
                "--http {one} and --metrics {other} need the same port: choose another one for either, or off"
            ));
        }
        listen
    }

    /// The name of this node's Node object; that of the host unless it is given.
    pub(super) fn node_name(&mut self, given: Option<String>) -> String {
        let wrong = given.as_deref().filter(|name| !name.is_empty() && !is_dns_subdomain(name));
        if let Some(name) = wrong {
            self.0.push(format!("--node-name {name}: {DNS_SUBDOMAIN}; take the name of the Node object"));
        }
        self.host_name("--node-name", given)
    }

    pub(super) fn source(
        &mut self,
        value: &str,
        kubeconfig: Option<PathBuf>,
        namespace: Option<String>,
    ) -> SourceConfig {
        if let Some(path) = value.strip_prefix("dir:").filter(|path| !path.is_empty()) {
            return SourceConfig::Dir(PathBuf::from(path));
        }
        if value != "kube" {
            self.0.push(format!(
                "--source {value}: must be kube, or dir:PATH, a directory of Kubernetes objects"
            ));
        }
        SourceConfig::Kube { kubeconfig: given(kubeconfig), namespace: self.namespace(namespace) }
    }

    pub(super) fn namespace(&mut self, namespace: Option<String>) -> Option<String> {
        let namespace = namespace.filter(|name| !name.is_empty());
        if let Some(name) = namespace.as_ref().filter(|name| !is_dns_label(name)) {
            self.0.push(format!(
                "--namespace {name}: must be the name of a namespace: lower-case letters, digits and '-', at most 63"
            ));
        }
        namespace
    }

    /// A list of namespaces. Blanks around a name and empty entries are nothing.
    pub(super) fn namespaces(&mut self, flag: &str, names: Vec<String>) -> BTreeSet<String> {
        let names = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        let (good, bad): (Vec<&str>, Vec<&str>) = names.partition(|name| is_dns_label(name));
        if !bad.is_empty() {
            self.0.push(format!(
                "{flag} {}: must be names of namespaces, separated by commas: lower-case letters, digits and '-', at most 63",
                bad.join(",")
            ));
        }
        good.into_iter().map(str::to_owned).collect()
    }

    /// A name that was given, else that of the host.
    pub(super) fn host_name(&mut self, flag: &str, given: Option<String>) -> String {
        if let Some(name) = given.filter(|name| !name.is_empty()) {
            return name;
        }
        match std::fs::read_to_string("/proc/sys/kernel/hostname") {
            Ok(name) => name.trim().to_owned(),
            Err(error) => {
                self.0.push(format!("{flag} is missing and the host's name cannot be read: {error}"));
                String::new()
            }
        }
    }

    pub(super) fn connections(&mut self, value: Option<&str>, default: u32) -> u32 {
        let n = self.number("--max-connections", value, default, MIN_CONNECTIONS..=1 << 26);
        if n.is_power_of_two() {
            return n;
        }
        self.0.push(format!("--max-connections {n}: must be a power of two; use {}", n.next_power_of_two()));
        default
    }

    pub(super) fn number(
        &mut self,
        flag: &str,
        value: Option<&str>,
        default: u32,
        range: std::ops::RangeInclusive<u32>,
    ) -> u32 {
        let Some(value) = value else { return default };
        match value.parse::<u32>() {
            Ok(n) if range.contains(&n) => n,
            _ => {
                let (low, high) = (range.start(), range.end());
                self.0.push(format!("{flag} {value}: must be a number from {low} to {high}"));
                default
            }
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, flag: &str, value: &str, choices: &[(&str, T)]) -> T {
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
            return *choice;
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.0.push(format!("{flag} {value}: must be one of {}", names.join(", ")));
        choices[0].1
    }

    /// Whether a state of the cluster is kept: a host outside has no other way to start while the API server is away. The pods of a
    /// node do not outlive its restart.
    pub(super) fn keeps_state(&mut self, role: Role, source: &SourceConfig, given: Option<&Path>) -> bool {
        let keeps = role == Role::External && matches!(source, SourceConfig::Kube { .. });
        if let (false, Some(path)) = (keeps, given.filter(|path| !is_off(path))) {
            self.0.push(format!(
                "--state-dir {}: only a host outside the cluster with an API server keeps a state; leave it out, or use \
                 --role external and --source kube",
                path.display()
            ));
        }
        keeps
    }

    /// `None` = off.
    pub(super) fn state_dir(&mut self, given: Option<PathBuf>) -> Option<PathBuf> {
        let path = given.unwrap_or_else(|| PathBuf::from(STATE_DIR));
        (!is_off(&path)).then(|| self.absolute("--state-dir", path))
    }

    pub(super) fn absolute(&mut self, flag: &str, path: PathBuf) -> PathBuf {
        if !path.is_absolute() {
            self.0.push(format!("{flag} {}: must be an absolute path", path.display()));
        }
        path
    }
}

fn is_off(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == "off"
}

/// An empty value in a pod's environment means unset.
pub(super) fn given(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// Whether a namespace can have that name (Kubernetes, "Object Names and IDs", RFC 1123 label names).
fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| inner(b) || b == b'-')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().next_back().is_some_and(inner)
}
