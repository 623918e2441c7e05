//! The configuration on stdin: keys of CNI and our own.
//!
//! Keys are taken apart one by one, so an error names its key, and what is not ours is never interpreted:
//! `prevResult` stays the text that the runtime wrote.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    environment::is_name,
    error::{CniError, Code},
    level::Level,
    version::Version,
};

/// Capability with the literal path of the pod's cgroup: containerd 1.7.0, CRI-O 1.28.0 and later.
const CGROUP_PATH: &str = "cgroupPath";
/// Capability with the pod's annotations: containerd 1.5.0 and later, CRI-O 1.30 at the latest.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Keys under which GC tells what is in use: the specification's, and the one that libcni sends too.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Keys of a network configuration (CNI specification 1.1.0, "Configuration format") and ours.
const KEYS: [&str; 20] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "disableCheck",
    "disableGC",
    "dns",
    "ipMasq",
    "ipam",
    "loadOnlyInlinedPlugins",
    "prevResult",
    "runtimeConfig",
    "bpffs",
    "cgroupRoot",
    "excludeNamespaces",
    "failurePolicy",
    "logLevel",
    "runDir",
];

type Keys<'a> = BTreeMap<String, &'a RawValue>;

/// What happens to a pod that cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailurePolicy {
    /// It starts; the agent attaches it later.
    Ignore,
    /// It does not start.
    Fail,
}

/// One network configuration.
#[derive(Debug)]
pub(crate) struct Config<'a> {
    pub(crate) version: Version,
    /// `name` of the network; may be empty below 0.4.0.
    pub(crate) name: String,
    /// `failurePolicy`.
    pub(crate) failure_policy: FailurePolicy,
    /// `excludeNamespaces`; `None`: as the node says.
    pub(crate) exclude_namespaces: Option<BTreeSet<String>>,
    /// `bpffs`; `None`: as the node says.
    pub(crate) bpffs: Option<PathBuf>,
    /// `cgroupRoot`; `None`: as the node says, or to be discovered.
    pub(crate) cgroup_root: Option<PathBuf>,
    /// `runDir`.
    pub(crate) run_dir: PathBuf,
    /// `logLevel`.
    pub(crate) log_level: Level,
    /// Capability `cgroupPath`.
    pub(crate) cgroup_path: Option<String>,
    /// Capability `io.kubernetes.cri.pod-annotations`; `None`: not told, or not in a form that is understood.
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    /// Keys of ours that are wrong. A wrong one is as if it were not there.
    pub(crate) problems: Vec<CniError>,
    /// Keys that neither CNI nor we know, such as a misspelt one.
    pub(crate) unknown: Vec<String>,
    keys: Keys<'a>,
}

/// The result of the plugins before.
#[derive(Debug)]
pub(crate) struct Previous<'a> {
    /// What is handed on.
    pub(crate) result: &'a RawValue,
    /// What is wrong with it, where that keeps no pod from starting.
    pub(crate) problem: Option<CniError>,
}

/// Collects what is wrong with our own keys: a mistake in them must not keep every pod of the node from starting.
struct Own {
    problems: Vec<CniError>,
}

/// One entry of GC's list.
#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// Version of a configuration that may be anything at all.
pub(crate) fn version_of(input: &[u8]) -> Option<Version> {
    let keys: Keys<'_> = serde_json::from_slice(input).ok()?;
    Version::parse(&typed::<String>(&keys, "cniVersion").ok()??)
}

impl FailurePolicy {
    const NAMES: [(&str, Self); 2] = [("ignore", Self::Ignore), ("fail", Self::Fail)];

    /// Its name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }
}

impl<'a> Config<'a> {
    pub(crate) fn parse(input: &'a [u8]) -> Result<Self, CniError> {
        let keys: Keys<'a> =
            serde_json::from_slice(input).map_err(|error| undecodable("stdin", &error.to_string()))?;
        let version = version(&keys)?;
        let name = name(&keys, version)?;
        let (mut own, unknown) = (Own { problems: Vec::new() }, unknown(&keys));
        let policy = own.take("failurePolicy", |key| one_of(&keys, key, &FailurePolicy::NAMES));
        let exclude_namespaces = own.take("excludeNamespaces", |key| typed(&keys, key));
        let bpffs = own.take("bpffs", |key| path(&keys, key));
        let cgroup_root = own.take("cgroupRoot", |key| path(&keys, key));
        let run_dir = own.take("runDir", |key| path(&keys, key));
        let log_level = own.take("logLevel", |key| one_of(&keys, key, &Level::NAMES));
        let runtime: Keys<'_> =
            own.take("runtimeConfig", |key| typed_keys(&keys, key).map(Some)).unwrap_or_default();
        let cgroup_path: Option<String> = own.take(CGROUP_PATH, |key| typed(&runtime, key));
        let problems = own.problems;
        Ok(Self {
            version,
            name,
            failure_policy: policy.unwrap_or(FailurePolicy::Ignore),
            exclude_namespaces,
            bpffs,
            cgroup_root,
            run_dir: run_dir.unwrap_or_else(|| PathBuf::from("/run/balancing")),
            log_level: log_level.unwrap_or(Level::Info),
            cgroup_path: cgroup_path.filter(|path| !path.is_empty()),
            // A runtime's odd annotations must not keep a pod from starting.
            annotations: typed(&runtime, ANNOTATIONS).ok().flatten(),
            problems,
            unknown,
            keys,
        })
    }

    /// The result to hand on, exactly as it was given.
    ///
    /// A runtime passes on the version that the plugin before has printed, which ought to be the configuration's. Another one
    /// that is known is a problem of that plugin, not of a pod that may start: without us the chain would take it.
    pub(crate) fn prev_result(&self) -> Result<Previous<'a>, CniError> {
        let key = "prevResult";
        let Some(raw) = self.keys.get(key).copied() else {
            return Err(invalid(
                key,
                "is missing: this plugin is chained and comes after one that makes the interface",
            ));
        };
        let result: Keys<'_> =
            serde_json::from_str(raw.get()).map_err(|error| undecodable(key, &error.to_string()))?;
        let result_version: Option<String> =
            typed(&result, "cniVersion").map_err(|_error| undecodable(key, "cniVersion is not a string"))?;
        let ours = self.version.as_str();
        let other = result_version.filter(|version| version != ours);
        let known = other.as_deref().is_none_or(|version| Version::parse(version).is_some());
        let problem = other.map(|other| {
            incompatible(&format!("prevResult is of version {other}, the configuration of {ours}"))
        });
        match problem {
            Some(problem) if !known || self.failure_policy == FailurePolicy::Fail => return Err(problem),
            _ => {}
        }
        if !result.contains_key("ips") && (result.contains_key("ip4") || result.contains_key("ip6")) {
            return Err(incompatible("prevResult has the form of 0.2.0 and older"));
        }
        Ok(Previous { result: raw, problem })
    }

    /// Container and interface of everything that is in use. An attachment under either key is.
    ///
    /// `null` means nothing is: a runtime without containers sends an empty Go slice that way. Without any of the
    /// keys, as cnitool calls, nothing is known (`None`), and nothing may be removed.
    pub(crate) fn valid_attachments(&self) -> Result<Option<BTreeSet<(String, String)>>, CniError> {
        let mut told = false;
        let mut valid = BTreeSet::new();
        for key in VALID_ATTACHMENTS {
            told |= self.keys.contains_key(key);
            let entries: Vec<ValidAttachment> = typed(&self.keys, key)?.unwrap_or_default();
            valid.extend(entries.into_iter().map(|entry| (entry.container_id, entry.ifname)));
        }
        Ok(told.then_some(valid))
    }
}

impl Own {
    fn take<T>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<Option<T>, CniError>) -> Option<T> {
        read(key).unwrap_or_else(|error| {
            self.problems.push(error);
            None
        })
    }
}

fn unknown(keys: &Keys<'_>) -> Vec<String> {
    let known = |key: &str| KEYS.contains(&key) || key.starts_with("cni.dev/");
    keys.keys().filter(|key| !known(key)).cloned().collect()
}

fn version(keys: &Keys<'_>) -> Result<Version, CniError> {
    let text: Option<String> =
        typed(keys, "cniVersion").map_err(|_error| undecodable("stdin", "cniVersion is not a string"))?;
    // The specification's meaning of a missing version.
    let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| "0.1.0".to_owned());
    Version::parse(&text).ok_or_else(|| incompatible(&format!("cniVersion is {text:?}")))
}

/// Below 0.4.0 runtimes did not check the name, so anything is taken.
fn name(keys: &Keys<'_>, version: Version) -> Result<String, CniError> {
    let name: String = typed(keys, "name")?.unwrap_or_default();
    if version < Version::V0_4_0 || is_name(&name) {
        return Ok(name);
    }
    Err(invalid(
        "name",
        &format!(
            "is {name:?}, but has to begin with a letter or digit and hold only letters, digits, `_`, `.` and `-`"
        ),
    ))
}

fn typed<T: DeserializeOwned>(keys: &Keys<'_>, key: &str) -> Result<Option<T>, CniError> {
    let Some(raw) = keys.get(key) else { return Ok(None) };
    serde_json::from_str(raw.get()).map_err(|error| invalid(key, &format!("has a wrong type: {error}")))
}

fn typed_keys<'a>(keys: &Keys<'a>, key: &str) -> Result<Keys<'a>, CniError> {
    let Some(raw) = keys.get(key) else { return Ok(Keys::new()) };
    let inner: Option<Keys<'a>> = serde_json::from_str(raw.get())
        .map_err(|error| invalid(key, &format!("has a wrong type: {error}")))?;
    Ok(inner.unwrap_or_default())
}

fn one_of<T: Copy>(keys: &Keys<'_>, key: &str, values: &[(&str, T)]) -> Result<Option<T>, CniError> {
    let Some(text) = typed::<String>(keys, key)? else { return Ok(None) };
    match values.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
            Err(invalid(key, &format!("is {text:?}, not one of {}", names.join(", "))))
        }
    }
}

fn path(keys: &Keys<'_>, key: &str) -> Result<Option<PathBuf>, CniError> {
    let Some(text) = typed::<String>(keys, key)? else { return Ok(None) };
    if Path::new(&text).is_absolute() && !text.contains('\0') {
        Ok(Some(PathBuf::from(text)))
    } else {
        Err(invalid(key, &format!("is {text:?}, not an absolute path")))
    }
}

fn invalid(key: &str, why: &str) -> CniError {
    CniError::new(Code::Config, "the network configuration is not valid", format!("{key} {why}"))
}

fn undecodable(what: &str, why: &str) -> CniError {
    CniError::new(Code::Decode, format!("cannot decode {what}"), why)
}

fn incompatible(why: &str) -> CniError {
    let details = format!("{why}; supported versions: {}", Version::list());
    CniError::new(Code::Version, "incompatible CNI version", details)
}

#[cfg(test)]
mod tests;
