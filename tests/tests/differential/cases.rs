//! Generated calls: a valid one, with up to two things changed.

use std::{ffi::OsString, fmt, os::unix::ffi::OsStringExt as _, path::Path};

use balancing_tests::Random;
use serde_json::{Value, json};

/// Stands for the path of a network namespace that is not the plugin's own.
pub(crate) const OTHER_NETNS: &str = "@netns";
/// Stands for the run directory.
const RUN_DIR: &str = "@run";

/// A call.
#[derive(Clone)]
pub(crate) struct Case {
    /// Variables; `None`: not set.
    pub(crate) command: Option<Vec<u8>>,
    pub(crate) container: Option<Vec<u8>>,
    pub(crate) ifname: Option<Vec<u8>>,
    pub(crate) netns: Option<Vec<u8>>,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) args: Option<Vec<u8>>,
    pub(crate) netns_override: Option<Vec<u8>>,
    /// What stdin would hold if its text were not broken.
    pub(crate) config: Value,
    /// How the text is broken.
    pub(crate) breakage: Option<Breakage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breakage {
    Truncated(usize),
    NotUtf8,
    NotUtf8InString,
    ByteOrderMark,
    TrailingGarbage,
    TrailingBlanks,
    DuplicateKey,
    Empty,
    Array,
    Null,
    Surrogate,
    Deep,
    LargeNumber,
}

const BREAKAGES: [Breakage; 13] = [
    Breakage::Truncated(0),
    Breakage::NotUtf8,
    Breakage::NotUtf8InString,
    Breakage::ByteOrderMark,
    Breakage::TrailingGarbage,
    Breakage::TrailingBlanks,
    Breakage::DuplicateKey,
    Breakage::Empty,
    Breakage::Array,
    Breakage::Null,
    Breakage::Surrogate,
    Breakage::Deep,
    Breakage::LargeNumber,
];

const COMMANDS: [&str; 11] =
    ["ADD", "ADD", "ADD", "DEL", "DEL", "CHECK", "STATUS", "GC", "VERSION", "ADD", "CHECK"];
const ODD_COMMANDS: [&str; 8] = ["add", "ADD ", "FOO", "", " DEL", "Version", "GC\n", "PING"];
const CONTAINERS: [&str; 12] =
    ["A_b.-9", "-a", ".a", "_a", "a/b", "a b", "a\n", "\u{e9}", "a\u{e9}", "", "0", "Z"];
const IFNAMES: [&str; 16] = [
    "",
    "e",
    "123456789012345",
    "1234567890123456",
    ".",
    "..",
    "...",
    "a/b",
    "a:b",
    "a b",
    "a\tb",
    "\u{e9}",
    "a\u{a0}b",
    "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
    "eth0\n",
    "a.b",
];
const NETNS: [&str; 5] = ["", "/proc/self/ns/net", "dummy", "/nonexistent", "relative/path"];
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const PAIRS: [&str; 24] = [
    "IgnoreUnknown=1",
    "IgnoreUnknown=true",
    "IgnoreUnknown=TRUE",
    "IgnoreUnknown=0",
    "IgnoreUnknown=false",
    "IgnoreUnknown=2",
    "IgnoreUnknown=",
    "K8S_POD_NAME=web-0",
    "K8S_POD_NAMESPACE=default",
    "K8S_POD_INFRA_CONTAINER_ID=abc",
    "K8S_POD_UID=0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0",
    "K8S_POD_UID=",
    "K8S_POD_UID=0123456789abcdef0123456789abcdef",
    "K8S_POD_UID=../x",
    "K8S_POD_UID=a/b",
    "K8S_POD_UID=*",
    "K8S_POD_NAME=",
    "IP=10.0.0.1",
    "MAC=0a:00:00:00:00:01",
    "a=b=c",
    "a",
    "",
    "=",
    "=x",
];

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables = [
            ("COMMAND", &self.command),
            ("CONTAINERID", &self.container),
            ("IFNAME", &self.ifname),
            ("NETNS", &self.netns),
            ("PATH", &self.path),
            ("ARGS", &self.args),
            ("NETNS_OVERRIDE", &self.netns_override),
        ];
        for (name, value) in variables.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            write!(f, "{name}={:?} ", String::from_utf8_lossy(value))?;
        }
        write!(f, "{} {:?}", self.config, self.breakage)
    }
}

impl Case {
    pub(crate) fn generate(random: &mut Random) -> Self {
        let mut case = Self::valid(random);
        // Seldom none: what is valid is accepted by all, and that is soon seen.
        for _ in 0..*random.pick(&[0, 1, 1, 1, 2]) {
            case.change(random);
        }
        case
    }

    fn valid(random: &mut Random) -> Self {
        let version = *random.pick(&VERSIONS);
        let command = *random.pick(&COMMANDS);
        let mut config = json!({
            "cniVersion": version, "name": "net", "type": "balancing-cni", "runDir": RUN_DIR, "bpffs": RUN_DIR, "logLevel": "error",
            "prevResult": prev_result(version, random),
        });
        if command == "GC" {
            let attachments = json!([{"containerID": "c1", "ifname": "eth0"}]);
            config["cni.dev/valid-attachments"] = attachments.clone();
            config["cni.dev/attachments"] = attachments;
        }
        let set = |text: &str| Some(text.as_bytes().to_vec());
        Self {
            command: set(command),
            container: set("c1"),
            ifname: set("eth0"),
            netns: set(OTHER_NETNS),
            path: set("/opt/cni/bin"),
            args: set(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0",
            ),
            netns_override: None,
            config,
            breakage: None,
        }
    }

    fn change(&mut self, random: &mut Random) {
        match random.below(13) {
            0 => self.command = odd(random, &ODD_COMMANDS),
            1 => {
                self.container =
                    if random.once_in(6) { Some(vec![b'c'; 300]) } else { odd(random, &CONTAINERS) }
            }
            2 => self.ifname = odd(random, &IFNAMES),
            3 => {
                self.netns = odd(random, &NETNS);
                self.netns_override = odd(random, &["1", "TRUE", "true", "0", "no"]);
            }
            4 => self.path = odd(random, &["", ":", "/a:/b"]),
            5 | 6 => self.args = args(random),
            7 => self.breakage = Some(broken(random)),
            8 | 9 => self.set("cniVersion", random, &versions()),
            10 => self.set("name", random, &names()),
            11 => {
                let version = *random.pick(&VERSIONS);
                let mut results = results();
                results.push(prev_result(version, random));
                self.set("prevResult", random, &results);
            }
            _ => {
                let (key, values) = random.pick(&keys()).clone();
                self.set(key, random, &values);
            }
        }
    }

    /// Another value of a key, or none.
    fn set(&mut self, key: &str, random: &mut Random, values: &[Value]) {
        let keys = self.config.as_object_mut().unwrap();
        if random.once_in(6) {
            keys.remove(key);
        } else {
            keys.insert(key.to_owned(), random.pick(values).clone());
        }
    }

    /// The variables of the process.
    pub(crate) fn environment(&self, netns: &Path) -> Vec<(&'static str, OsString)> {
        let variables = [
            ("CNI_COMMAND", &self.command),
            ("CNI_CONTAINERID", &self.container),
            ("CNI_IFNAME", &self.ifname),
            ("CNI_NETNS", &self.netns),
            ("CNI_PATH", &self.path),
            ("CNI_ARGS", &self.args),
            ("CNI_NETNS_OVERRIDE", &self.netns_override),
        ];
        let value = |value: &[u8]| {
            if value == OTHER_NETNS.as_bytes() { netns.into() } else { OsString::from_vec(value.to_vec()) }
        };
        variables.into_iter().filter_map(|(name, found)| Some((name, value(found.as_deref()?)))).collect()
    }

    /// What is on stdin.
    pub(crate) fn stdin(&self, run_dir: &Path) -> Vec<u8> {
        let text = self.config.to_string().replace(RUN_DIR, run_dir.to_str().unwrap());
        let with = |first: &str| format!("{{{first},{}", &text[1..]).into_bytes();
        match self.breakage {
            None => text.into_bytes(),
            Some(Breakage::Truncated(at)) => text.as_bytes()[..at % text.len()].to_vec(),
            Some(Breakage::NotUtf8) => [text.as_bytes(), &[0xff]].concat(),
            Some(Breakage::NotUtf8InString) => [b"{\"x\":\"\xff\",", &text.as_bytes()[1..]].concat(),
            Some(Breakage::ByteOrderMark) => [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            Some(Breakage::TrailingGarbage) => format!("{text}}}").into_bytes(),
            Some(Breakage::TrailingBlanks) => format!("\n \t{text} \r\n\n").into_bytes(),
            Some(Breakage::DuplicateKey) => with("\"name\":\"first\",\"cniVersion\":\"0.2.0\""),
            Some(Breakage::Empty) => Vec::new(),
            Some(Breakage::Array) => format!("[{text}]").into_bytes(),
            Some(Breakage::Null) => b"null".to_vec(),
            Some(Breakage::Surrogate) => with("\"x\":\"\\ud800\""),
            Some(Breakage::Deep) => with(&format!("\"x\":{}{}", "[".repeat(300), "]".repeat(300))),
            Some(Breakage::LargeNumber) => with("\"x\":1e999,\"y\":123456789012345678901234567890"),
        }
    }

    pub(crate) fn is(&self, commands: &[&str]) -> bool {
        commands.contains(&text(&self.command).as_str())
    }

    /// `cniVersion`, empty where it is no text.
    pub(crate) fn version(&self) -> &str {
        self.config["cniVersion"].as_str().unwrap_or_default()
    }
}

/// A variable as text, empty where it is not set.
pub(crate) fn text(value: &Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned()
}

/// Another value, none, or bytes that are no text.
fn odd(random: &mut Random, values: &[&str]) -> Option<Vec<u8>> {
    match random.below(8) {
        0 => None,
        1 => Some(vec![b'a', 0xff]),
        _ => Some(random.pick(values).as_bytes().to_vec()),
    }
}

fn args(random: &mut Random) -> Option<Vec<u8>> {
    if random.once_in(12) {
        return odd(random, &["", ";", ";;"]);
    }
    let pairs: Vec<&str> = (0..random.within(1..5)).map(|_| *random.pick(&PAIRS)).collect();
    Some(pairs.join(";").into_bytes())
}

fn broken(random: &mut Random) -> Breakage {
    match *random.pick(&BREAKAGES) {
        Breakage::Truncated(_) => Breakage::Truncated(random.within(1..200)),
        other => other,
    }
}

fn versions() -> Vec<Value> {
    let texts = [
        "",
        "0.1.0",
        "0.2.0",
        "0.5.0",
        "1.2.0",
        "1.0.1",
        "2.0.0",
        "foo",
        "1.0",
        "1.0.0 ",
        "01.0.0",
        "1.0.0-rc1",
    ];
    let mut all: Vec<Value> = texts.map(Value::from).to_vec();
    all.extend(VERSIONS.map(Value::from));
    all.extend([json!(1), json!(null), json!(["1.0.0"])]);
    all
}

fn names() -> Vec<Value> {
    ["", "a b", "-a", ".a", "A.b_c-d", "a/b", "\u{e9}", "0"]
        .map(Value::from)
        .into_iter()
        .chain([json!(5), json!(null), json!({})])
        .collect()
}

/// A result of a plugin that makes an interface, in the form of a version.
fn prev_result(version: &str, random: &mut Random) -> Value {
    let mut result = json!({
        "cniVersion": version,
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "mac": "0a:58:0a:01:00:05", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.1.0.1"]},
    });
    if version < "1.0.0" {
        result["ips"][0]["version"] = "4".into();
    }
    match random.below(6) {
        0 => drop(result.as_object_mut().unwrap().remove("dns")),
        1 => result["dns"] = json!({}),
        2 => drop(result.as_object_mut().unwrap().remove("ips")),
        3 => drop(result.as_object_mut().unwrap().remove("cniVersion")),
        _ => {}
    }
    result
}

fn results() -> Vec<Value> {
    vec![
        json!(null),
        json!("text"),
        json!([]),
        json!({}),
        json!(5),
        json!({"cniVersion": 5}),
        json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24"}}),
        json!({"ip4": {"ip": "10.1.0.5/24"}}),
        json!({"cniVersion": "1.0.0", "ips": "none"}),
        json!({"cniVersion": "1.0.0", "ips": [{"address": "no address"}]}),
        json!({"cniVersion": "9.9.9"}),
    ]
}

/// Other keys, with values right and wrong.
fn keys() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("unknownKey", vec![json!(1), json!({"a": [null]})]),
        ("type", vec![json!(""), json!(5), json!("other")]),
        ("args", vec![json!({"cni": {"ips": ["10.0.0.1"]}}), json!("text"), json!(null)]),
        (
            "runtimeConfig",
            vec![json!({"cgroupPath": "/kubepods/podx"}), json!({"cgroupPath": 5}), json!(5), json!(null)],
        ),
        ("capabilities", vec![json!({"portMappings": true}), json!({"portMappings": 5}), json!([])]),
        (
            "dns",
            vec![json!({"nameservers": ["1.1.1.1"]}), json!({"nameservers": "x"}), json!(5), json!(null)],
        ),
        ("ipam", vec![json!({"type": "host-local"}), json!({}), json!(5), json!({"type": 5})]),
        ("ipMasq", vec![json!(true), json!("yes")]),
        ("disableCheck", vec![json!(true), json!("yes")]),
        (
            "cni.dev/valid-attachments",
            vec![json!(null), json!([]), json!(5), json!([{"containerID": 5}]), json!([{}])],
        ),
        ("cni.dev/attachments", vec![json!(null), json!([]), json!(5), json!([{"ifname": "eth0"}])]),
    ]
}
