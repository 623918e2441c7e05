//! What libcni remembers of ADD: a runtime may call our plugin for a pod although no configuration names it any more.
//!
//! CRI-O's DEL uses the configuration of the pod's ADD from there; a plugin that is missing then keeps the pod Terminating. So does
//! Multus, in a cache of its own.

use std::{fs, io::ErrorKind, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    conflist::PLUGIN,
    replace::{Error, failed},
};

/// The directory, below the host's root (libcni, `CacheDir`).
const RESULTS: &str = "var/lib/cni/results";
/// That of Multus (`cniDir`): a file for each container with the delegates that it has called, and the libcni of the daemon has its
/// results below it.
const MULTUS: [&str; 2] = ["var/lib/cni/multus", "var/lib/cni/multus/results"];

/// Names of the results whose configuration names our plugin, and of what Multus remembers. What cannot be read counts.
///
/// # Errors
/// When not all of them can be listed. From a container the host's directory is there only where it is mounted. Where Multus has
/// none it is not used.
pub(crate) fn references(host: &Path) -> Result<Vec<String>, Error> {
    let mut names = naming_ours(&host.join(RESULTS))?;
    for (place, of) in MULTUS.into_iter().zip(["multus", "multus/results"]) {
        match naming_ours(&host.join(place)) {
            Ok(found) => names.extend(found.into_iter().map(|name| format!("{of}/{name}"))),
            Err(error) if error.source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// Names of a directory's files that name ours.
fn naming_ours(directory: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        let path = entry.path();
        if !path.is_dir() && fs::read(&path).map_or(true, |text| names_ours(&text)) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn names_ours(text: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(text) else { return true };
    let is_unread = |config: &Value| config.as_str().is_none_or(|config| STANDARD.decode(config).is_err());
    value.get("config").is_some_and(is_unread) || is_in(&value)
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

    #[test]
    fn only_results_of_our_plugin_count() {
        let host = tempfile::tempdir().unwrap();
        assert!(references(host.path()).is_err(), "what is not there proves nothing");
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
        assert_eq!(references(host.path()).unwrap(), ["net-a-eth0", "net-c-eth0", "net-d-eth0"]);
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
        assert_eq!(references(host.path()).unwrap(), named);
        fs::remove_dir_all(path("multus")).unwrap();
        assert_eq!(references(host.path()).unwrap(), [""; 0]);
    }
}
