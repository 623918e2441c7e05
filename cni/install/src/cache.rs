//! What libcni remembers of ADD: a runtime may call our plugin for a pod although no configuration names it any more.
//!
//! CRI-O's DEL uses the configuration of the pod's ADD from there; a plugin that is missing then keeps the pod Terminating.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    conflist::PLUGIN,
    replace::{Error, failed},
};

/// The directory, below the host's root (libcni, `CacheDir`).
const RESULTS: &str = "var/lib/cni/results";

#[derive(serde::Deserialize)]
struct Cached {
    /// Bytes, which Go writes in base64.
    #[serde(default)]
    config: String,
}

/// Names of the results whose configuration names our plugin. A result that cannot be read counts.
///
/// # Errors
/// When not all of them can be listed. From a container the host's directory is there only where it is mounted.
pub(crate) fn references(host: &Path) -> Result<Vec<String>, Error> {
    let directory = host.join(RESULTS);
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
        let entry = entry.map_err(failed("read", &directory))?;
        if fs::read(entry.path()).map_or(true, |text| names_ours(&text)) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn names_ours(text: &[u8]) -> bool {
    let Ok(cached) = serde_json::from_slice::<Cached>(text) else { return true };
    let needle = format!("\"{PLUGIN}\"");
    STANDARD
        .decode(cached.config)
        .map_or(true, |config| config.windows(needle.len()).any(|part| part == needle.as_bytes()))
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
        assert_eq!(references(host.path()).unwrap(), ["net-a-eth0", "net-c-eth0"]);
    }
}
