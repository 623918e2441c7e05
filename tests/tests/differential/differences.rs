//! What the plugin and the others judge differently, and why. Nothing else may differ.

use serde_json::Value;

use super::cases::{Breakage, Case, OTHER_NETNS, text};

/// An implementation of the plugin side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `pkg/skel` of containernetworking/cni, with what a chained plugin of the reference plugins does.
    Skel,
    /// The crate `rscni-plugin`.
    Rscni,
    /// The crate `cni-plugin`.
    CniPlugin,
}

/// One difference.
pub(crate) struct Difference {
    /// What it is, in short: unique.
    pub(crate) name: &'static str,
    pub(crate) peers: &'static [Peer],
    /// We accept, they refuse; else the other way round.
    pub(crate) we_accept: bool,
    pub(crate) reason: &'static str,
    pub(crate) applies: fn(&Case) -> bool,
}

use Peer::{CniPlugin, Rscni, Skel};

const ALL: &[Peer] = &[Skel, Rscni, CniPlugin];
/// Commands that have a container.
const OF_CONTAINER: [&str; 3] = ["ADD", "DEL", "CHECK"];

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "no `CNI_PATH`",
        peers: &[Skel, Rscni],
        we_accept: true,
        reason: "the specification calls it optional, and a plugin that calls no other does not need it",
        applies: |case| text(&case.path).is_empty(),
    },
    Difference {
        name: "`CNI_NETNS` is the plugin's own namespace, or none",
        peers: &[Skel],
        we_accept: true,
        reason: "we never enter it; what is attached is the cgroup",
        applies: |case| case.is(&["ADD", "DEL"]) && text(&case.netns) != OTHER_NETNS,
    },
    Difference {
        name: "`CNI_ARGS` is malformed, on DEL",
        peers: ALL,
        we_accept: true,
        reason: "ADD has written down which pod it was; a failure would leave what the plugins before ours have made",
        applies: |case| {
            let is_text = case.args.as_ref().is_none_or(|args| std::str::from_utf8(args).is_ok());
            case.is(&["DEL"]) && (!is_text || is_malformed(&text(&case.args)) || has_odd_uid(case))
        },
    },
    Difference {
        name: "a wrong type in a key that we do not read",
        peers: ALL,
        we_accept: true,
        reason: "what is not ours is never interpreted: an odd key of somebody else keeps no pod from starting",
        applies: has_odd_key,
    },
    Difference {
        name: "a network name that is missing or has odd characters, below 0.4.0",
        peers: ALL,
        we_accept: true,
        reason: "runtimes of that time did not check it, and pods of such a network run",
        applies: |case| case.version() < "0.4.0" && !is_name(&case.config["name"]),
    },
    Difference {
        name: "`prevResult` is not as its version says",
        peers: &[Skel, Rscni],
        we_accept: true,
        reason: "it is handed on as it is, byte for byte; only ADD reads it, and only its version and form",
        applies: has_odd_result,
    },
    Difference {
        name: "versions below 0.4.0",
        peers: &[CniPlugin],
        we_accept: true,
        reason: "most lists in the field are of 0.3.1",
        applies: |case| case.version() < "0.4.0",
    },
    Difference {
        name: "no command, STATUS, GC, and VERSION without a configuration",
        peers: &[CniPlugin],
        we_accept: true,
        reason: "it knows neither, and reads stdin first",
        applies: |case| case.is(&["", "STATUS", "GC", "VERSION"]),
    },
    Difference {
        name: "capital letters in `CNI_CONTAINERID`",
        peers: &[CniPlugin],
        we_accept: true,
        reason: "the specification allows them",
        applies: |case| text(&case.container).contains(|letter: char| letter.is_ascii_uppercase()),
    },
    Difference {
        name: "variables that a command does not have",
        peers: &[Skel, Rscni, CniPlugin],
        we_accept: true,
        reason: "what a call does not need is not judged",
        applies: |case| !case.is(&OF_CONTAINER),
    },
    Difference {
        name: "keys that are there twice, and values that no program needs to understand: 1e999, 300 nested lists",
        peers: &[Rscni, CniPlugin],
        we_accept: true,
        reason: "the last one counts, as in the reference, and what is not ours is never interpreted",
        applies: |case| {
            matches!(
                case.breakage,
                Some(Breakage::DuplicateKey | Breakage::LargeNumber | Breakage::Deep | Breakage::Surrogate)
            )
        },
    },
    Difference {
        name: "`CNI_NETNS` or `CNI_PATH` is not UTF-8",
        peers: &[Rscni, CniPlugin],
        we_accept: true,
        reason: "paths need not be, and nothing but the kernel reads them",
        applies: |case| {
            let is_text = |value: &Option<Vec<u8>>| {
                value.as_ref().is_none_or(|value| std::str::from_utf8(value).is_ok())
            };
            !is_text(&case.netns) || !is_text(&case.path)
        },
    },
    Difference {
        name: "`K8S_POD_UID` has characters that no UID has",
        peers: ALL,
        we_accept: false,
        reason: "it becomes a part of paths",
        applies: |case| case.is(&["ADD", "CHECK"]) && has_odd_uid(case),
    },
    Difference {
        name: "text that is not UTF-8, in a variable or in a string of stdin",
        peers: ALL,
        we_accept: false,
        reason: "Go puts a character of replacement there; a container or an interface would then have another name than the runtime's",
        applies: |case| {
            let variables = [&case.container, &case.ifname, &case.args];
            let is_text = |value: &&Option<Vec<u8>>| {
                value.as_ref().is_none_or(|value| std::str::from_utf8(value).is_ok())
            };
            let variables = if case.is(&["DEL"]) { &variables[..2] } else { &variables[..] };
            case.breakage == Some(Breakage::NotUtf8InString) || !variables.iter().all(is_text)
        },
    },
    Difference {
        name: "ADD with a `prevResult` of another version than the list's, or of the form of 0.2.0",
        peers: ALL,
        we_accept: false,
        reason: "a runtime has brought it into the list's version; handed on as it is, it would be a mixture, and to convert it would lose keys",
        applies: |case| {
            let result = &case.config["prevResult"];
            let differs =
                result.get("cniVersion").is_some_and(|version| *version != case.config["cniVersion"]);
            case.is(&["ADD"]) && (differs || result.get("ip4").is_some())
        },
    },
    Difference {
        name: "`CNI_ARGS` is malformed",
        peers: &[Rscni, CniPlugin],
        we_accept: false,
        reason: "they leave it to the plugin; we do as the reference does",
        applies: |case| case.is(&["ADD", "CHECK"]) && is_malformed(&text(&case.args)),
    },
    Difference {
        name: "ADD without a `prevResult` that is an object",
        peers: &[Rscni, CniPlugin],
        we_accept: false,
        reason: "a chained plugin makes no interface; they leave the question to the plugin",
        applies: |case| case.is(&["ADD"]) && !case.config["prevResult"].is_object(),
    },
    Difference {
        name: "odd names of interfaces and networks, empty variables",
        peers: &[CniPlugin],
        we_accept: false,
        reason: "it checks none of them; the specification and the kernel do",
        applies: |case| {
            let ifname = text(&case.ifname);
            let is_odd = ifname.is_empty() || ifname.len() > 15 || [".", ".."].contains(&ifname.as_str());
            let has_odd =
                ifname.contains(|letter: char| letter == '/' || letter == ':' || letter.is_whitespace());
            is_odd || has_odd || text(&case.netns).is_empty() || !is_name(&case.config["name"])
        },
    },
    Difference {
        name: "versions that do not exist, or are written otherwise: 1.0.1, 1.2.0, 1.0, `1.0.0 `, 01.0.0, 1.0.0-rc1",
        peers: &[Rscni, CniPlugin],
        we_accept: false,
        reason: "the answer has to be of the list's version, so it is one that we know",
        applies: |case| ["1.0.1", "1.2.0", "1.0", "1.0.0 ", "01.0.0", "1.0.0-rc1"].contains(&case.version()),
    },
];

fn has_odd_uid(case: &Case) -> bool {
    ["../x", "a/b", "*"].iter().any(|uid| text(&case.args).contains(uid))
}

/// As the loader of the reference says: pairs with one `=` each, and only known keys unless `IgnoreUnknown` is true.
fn is_malformed(args: &str) -> bool {
    if args.is_empty() {
        return false;
    }
    let (mut has_unknown, mut ignores) = (false, false);
    for pair in args.split(';') {
        let parts: Vec<&str> = pair.split('=').collect();
        let [key, value] = parts[..] else { return true };
        match (key, value.to_lowercase().as_str()) {
            ("IgnoreUnknown", "1" | "true") => ignores = true,
            ("IgnoreUnknown", "0" | "false") => ignores = false,
            ("IgnoreUnknown", _) => return true,
            ("K8S_POD_NAME" | "K8S_POD_NAMESPACE" | "K8S_POD_INFRA_CONTAINER_ID" | "K8S_POD_UID", _) => {}
            _ => has_unknown = true,
        }
    }
    has_unknown && !ignores
}

/// Whether a result has another form than its version's, or is none.
fn has_odd_result(case: &Case) -> bool {
    let Some(result) = case.config.get("prevResult") else { return false };
    let version = result.get("cniVersion").unwrap_or(&case.config["cniVersion"]);
    let ips = result.get("ips").map(|ips| ips.as_array().cloned());
    let is_address = |ip: &Value| ip["address"].as_str().is_some_and(|address| address.contains('/'));
    let is_right = result.as_object().is_some_and(|map| !map.is_empty())
        && *version == case.config["cniVersion"]
        && ips.is_none_or(|ips| ips.is_some_and(|ips| ips.iter().all(is_address)))
        && result.get("ip4").is_none();
    !is_right
}

fn is_name(name: &Value) -> bool {
    name.as_str().is_some_and(|name| {
        name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    })
}

/// Whether a key that CNI knows and we do not read has a value of another type.
fn has_odd_key(case: &Case) -> bool {
    let odd =
        |key: &str, is_right: fn(&Value) -> bool| case.config.get(key).is_some_and(|value| !is_right(value));
    let of_bools = |value: &Value| value.as_object().is_some_and(|map| map.values().all(Value::is_boolean));
    odd("type", |value| value.as_str().is_some_and(|text| !text.is_empty()))
        || case.config.get("type").is_none()
        || odd("args", Value::is_object)
        || odd("runtimeConfig", |value| {
            value.as_object().is_some_and(|map| map.values().all(Value::is_string))
        })
        || case.config.get("capabilities").is_some_and(|value| !of_bools(value))
        || odd("dns", |value| value.as_object().is_some_and(|dns| dns["nameservers"].is_array()))
        || odd("ipam", |value| value["type"].is_string())
        || odd("ipMasq", Value::is_boolean)
        || odd("disableCheck", Value::is_boolean)
        || odd("cni.dev/valid-attachments", is_list_of_attachments)
        || odd("cni.dev/attachments", is_list_of_attachments)
}

fn is_list_of_attachments(value: &Value) -> bool {
    let is_attachment = |entry: &Value| entry["containerID"].is_string() && entry["ifname"].is_string();
    value.as_array().is_some_and(|entries| entries.iter().all(is_attachment))
}

/// The list as a document.
pub(crate) fn in_words() -> String {
    let mut document = String::from("\
# The plugin side of CNI: what others judge differently

`tests/tests/cni_differential.rs` asks the plugin and three independent implementations the same, and writes this list: the skeleton
of the reference plugins (Go, `pkg/skel`), and the Rust crates `rscni-plugin` and `cni-plugin`. Everything that is not listed is
accepted or refused by all.

");
    for (title, we_accept) in [("We accept, they refuse", true), ("We refuse, they accept", false)] {
        document.push_str(&format!("## {title}\n\n| what | who | why |\n|---|---|---|\n"));
        for entry in DIFFERENCES.iter().filter(|entry| entry.we_accept == we_accept) {
            let peers: Vec<&str> = entry.peers.iter().map(|peer| peer.name()).collect();
            document.push_str(&format!("| {} | {} | {} |\n", entry.name, peers.join(", "), entry.reason));
        }
        document.push('\n');
    }
    document.truncate(document.trim_end().len());
    document.push('\n');
    document
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Skel => "skel",
            Self::Rscni => "rscni-plugin",
            Self::CniPlugin => "cni-plugin",
        }
    }
}
