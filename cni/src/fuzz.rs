//! What a runtime gives, broken at random: the parsers say what is wrong, and what must hold holds.

use std::path::{Path, PathBuf};

use crate::{
    args::Args,
    config::{self, Config},
};

#[path = "../../tests/src/fuzz.rs"]
#[allow(unreachable_pub, missing_docs, reason = "public where it belongs")]
mod fuzzer;
#[path = "../../tests/src/random.rs"]
#[allow(unreachable_pub, reason = "public where it belongs")]
mod random;

use fuzzer::{Target, fuzz};

fn try_out(name: &str, words: &[&str], run: &dyn Fn(&[u8]) -> String) {
    let corpus: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    let figures = fuzz(&corpus, &Target { name, words, run });
    assert!(figures.cases > 0 && figures.kinds > 1, "{name}: whatever comes, the same is said");
}

const WORDS: [&str; 22] = [
    "\"cniVersion\":",
    "\"1.1.0\"",
    "\"0.3.1\"",
    "\"name\":",
    "\"prevResult\":",
    "\"runtimeConfig\":",
    "\"cgroupPath\":",
    "\"cni.dev/valid-attachments\":",
    "\"cni.dev/attachments\":",
    "\"containerID\":",
    "\"ifname\":",
    "\"failurePolicy\":",
    "\"runDir\":",
    "null",
    "[]",
    "{}",
    ",",
    "1e999",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "true",
];

#[test]
fn configurations() {
    try_out("cni-config", &WORDS, &|input| {
        let version = config::version_of(input);
        match Config::parse(input) {
            Ok(config) => {
                assert_eq!(version, Some(config.version));
                let given = |text: &str| std::str::from_utf8(input).is_ok_and(|input| input.contains(text));
                let result = match config.prev_result() {
                    Ok(result) => {
                        assert!(given(result.result.get()), "handed on as it was given");
                        "a result".to_owned()
                    }
                    Err(error) => error.to_string(),
                };
                let valid = config
                    .valid_attachments()
                    .map_or_else(|error| error.to_string(), |valid| format!("{}", valid.is_some()));
                assert!(config.run_dir.is_absolute());
                let problems: Vec<String> = config.problems.iter().map(ToString::to_string).collect();
                format!("{result} {valid} {}", problems.join(" "))
            }
            Err(error) => {
                let object: serde_json::Value =
                    serde_json::from_str(&error.to_json(crate::version::Version::NEWEST)).unwrap();
                assert!(object["code"].as_u64().is_some());
                error.to_string()
            }
        }
    });
}

#[test]
fn results() {
    try_out("cni-result", &WORDS, &|input| {
        let call = [b"{\"cniVersion\":\"1.0.0\",\"name\":\"net\",\"prevResult\":", input, b"}"].concat();
        match Config::parse(&call).and_then(|config| config.prev_result()) {
            Ok(result) => {
                // Others' keys could follow the result's end.
                assert!(input.trim_ascii().starts_with(result.result.get().as_bytes()));
                "handed on".to_owned()
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn arguments() {
    let words = ["IgnoreUnknown=", "K8S_POD_UID=", "K8S_POD_NAME=", ";", "=", "1", "true", "../", "tmp-"];
    try_out("cni-args", &words, &|input| {
        let text = String::from_utf8_lossy(input);
        match Args::parse(&text) {
            Ok(args) => {
                let is_safe =
                    |uid: &str| uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                assert!(args.uid.as_ref().is_none_or(|uid| is_safe(uid.as_str())));
                format!("{} {}", args.uid.is_some(), args.namespace.is_empty())
            }
            Err(error) => error.to_string(),
        }
    });
}
