//! What libcni remembers of ADD: a runtime may call our plugin for a pod although no configuration names it any more.
//!
//! CRI-O's DEL uses the configuration of the pod's ADD from there; a plugin that is missing then keeps the pod Terminating. So does
//! Multus, in a cache of its own. containerd's DEL goes by the configuration of now (go-cni, `Network.Remove`), so that its pods need
//! nothing of what is remembered.

use std::{fs, io::ErrorKind, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    conflist::PLUGIN,
    replace::{Error, failed},
};

/// What libcni and Multus keep, below the host's root.
const PARENT: &str = "var/lib/cni";
/// The directory of results (libcni, `CacheDir`).
const RESULTS: &str = "var/lib/cni/results";
/// That of Multus (`cniDir`): a file for each container with the delegates that it has called, and the libcni of the daemon has its
/// results below it.
const MULTUS: [&str; 2] = ["var/lib/cni/multus", "var/lib/cni/multus/results"];

/// Something remembered that names our plugin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The file's name; with its directory where Multus remembers it.
    pub name: String,
    /// The pod for which a runtime of Kubernetes has called the plugin, as its arguments say: namespace and name.
    pub pod: Option<String>,
}

/// The results whose configuration names our plugin, and what Multus remembers. What cannot be read counts.
///
/// # Errors
/// When not all of them can be listed. From a container the host's directory is there only where it is mounted, so that results
/// that are not there are an error, too, unless they `may_lack` and what is above them is there. Where Multus has none it is not used.
pub(crate) fn references(host: &Path, may_lack: bool) -> Result<Vec<Reference>, Error> {
    let mut found = match naming_ours(&host.join(RESULTS)) {
        Err(error)
            if error.source.kind() == ErrorKind::NotFound && may_lack && host.join(PARENT).is_dir() =>
        {
            Vec::new()
        }
        results => results?,
    };
    for (place, of) in MULTUS.into_iter().zip(["multus", "multus/results"]) {
        match naming_ours(&host.join(place)) {
            // Its own caller is Multus, whatever pod that is for.
            Ok(theirs) => found.extend(
                theirs.into_iter().map(|one| Reference { name: format!("{of}/{}", one.name), pod: None }),
            ),
            Err(error) if error.source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A directory's files that name ours.
fn naming_ours(directory: &Path) -> Result<Vec<Reference>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        let path = entry.path();
        if path.is_dir() {
            continue;
        }
        let value = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        if value.as_ref().is_none_or(names_ours) {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(Reference { name, pod: value.as_ref().and_then(pod) });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn names_ours(value: &Value) -> bool {
    let is_unread = |config: &Value| config.as_str().is_none_or(|config| STANDARD.decode(config).is_err());
    value.get("config").is_some_and(is_unread) || is_in(value)
}

/// The pod of a result: libcni keeps `CNI_ARGS` as pairs (`cniArgs`), in which a runtime of Kubernetes names it. Others that name
/// one, as Podman did, know no uid.
fn pod(result: &Value) -> Option<String> {
    let pairs = result.get("cniArgs")?.as_array()?;
    let of = |key: &str| pairs.iter().find(|pair| pair[0] == *key)?[1].as_str();
    of("K8S_POD_UID").filter(|uid| !uid.is_empty())?;
    Some(format!("{}/{}", of("K8S_POD_NAMESPACE")?, of("K8S_POD_NAME")?))
}

/// Whether a text of the value is our plugin's name, or a configuration with it: Go writes bytes in base64.
fn is_in(value: &Value) -> bool {
    let needle = format!("\"{PLUGIN}\"");
    let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|part| part == needle.as_bytes());
    match value {
        Value::String(text) => text == PLUGIN || STANDARD.decode(text).is_ok_and(|config| has(&config)),
        Value::Array(values) => values.iter().any(is_in),
        Value::Object(values) => values.values().any(is_in),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(host: &Path) -> Vec<String> {
        references(host, false).unwrap().into_iter().map(|found| found.name).collect()
    }

    #[test]
    fn only_results_of_our_plugin_count() {
        let host = tempfile::tempdir().unwrap();
        assert!(references(host.path(), false).is_err(), "what is not there proves nothing");
        assert!(references(host.path(), true).is_err(), "nothing of the host is mounted");
        fs::create_dir_all(host.path().join(PARENT)).unwrap();
        assert!(references(host.path(), false).is_err());
        assert_eq!(references(host.path(), true).unwrap(), []);
        let results = host.path().join(RESULTS);
        fs::create_dir_all(&results).unwrap();
        for (name, config) in [
            ("net-a-eth0", r#"{"plugins":[{"type":"bridge"},{"type":"balancing-cni"}]}"#),
            ("net-b-eth0", r#"{"plugins":[{"type":"bridge"}]}"#),
        ] {
            let text = format!(r#"{{"kind":"cniCacheV1","config":"{}"}}"#, STANDARD.encode(config));
            fs::write(results.join(name), text).unwrap();
        }
        fs::write(results.join("net-c-eth0"), "{").unwrap();
        fs::write(results.join("net-d-eth0"), r#"{"config":"no base64"}"#).unwrap();
        assert_eq!(names(host.path()), ["net-a-eth0", "net-c-eth0", "net-d-eth0"]);
    }

    #[test]
    fn h10_a_result_tells_its_pod() {
        let host = tempfile::tempdir().unwrap();
        let results = host.path().join(RESULTS);
        fs::create_dir_all(&results).unwrap();
        let config = STANDARD.encode(r#"{"plugins":[{"type":"balancing-cni"}]}"#);
        let of_podman = r#"["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web"]"#;
        let of_kubernetes = format!(r#"[["IgnoreUnknown","1"],{of_podman},["K8S_POD_UID","u"]]"#);
        let of_podman = format!(r#"[{of_podman},["K8S_POD_UID",""]]"#);
        for (name, args) in [
            ("a", &of_kubernetes[..]),
            ("b", &of_podman),
            ("c", r#"[["K8S_POD_NAME","web"]]"#),
            ("d", "{}"),
            ("e", "[[],7]"),
        ] {
            let text = format!(r#"{{"config":"{config}","cniArgs":{args}}}"#);
            fs::write(results.join(name), text).unwrap();
        }
        let pods: Vec<_> =
            references(host.path(), false).unwrap().into_iter().map(|found| found.pod).collect();
        assert_eq!(pods, [Some("shop/web".to_owned()), None, None, None, None]);
    }

    #[test]
    fn h21_what_multus_remembers_counts() {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join("var/lib/cni").join(name);
        for directory in ["results", "multus/results"] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        let list = r#"{"plugins":[{"type":"bridge"},{"type":"balancing-cni"}]}"#;
        let result = |list: &str| format!(r#"{{"kind":"cniCacheV1","config":"{}"}}"#, STANDARD.encode(list));
        let delegate =
            |list: &str| format!(r#"[{{"Conf":{{"type":""}},"Bytes":"{}"}}]"#, STANDARD.encode(list));
        let other = list.replace("balancing-cni", "portmap");
        for (name, text) in [
            ("multus/aaa", delegate(list)),
            ("multus/bbb", delegate(&other)),
            ("multus/ccc", format!(r#"[{{"ConfList":{list},"Bytes":null}}]"#)),
            ("multus/results/net-a-eth0", result(list)),
            ("multus/results/net-b-eth0", result(&other)),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let named = ["multus/aaa", "multus/ccc", "multus/results/net-a-eth0"];
        assert_eq!(names(host.path()), named);
        // Multus calls it also where nobody goes by the results.
        fs::remove_dir_all(path("results")).unwrap();
        let found = references(host.path(), true).unwrap();
        assert_eq!(found.iter().map(|one| &one.name[..]).collect::<Vec<_>>(), named);
        fs::create_dir(path("results")).unwrap();
        fs::remove_dir_all(path("multus")).unwrap();
        assert_eq!(names(host.path()), [""; 0]);
    }
}
