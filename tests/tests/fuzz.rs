//! What others wrote, broken at random: every parser says what is wrong, in time, and what must hold holds.
//!
//! The parsers of the plugin are tried in its own crate (`cni/src/fuzz.rs`). `make fuzz SECONDS=3600` takes an hour for each target.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use balancing_cni_install::conflist::{Conflist, PLUGIN, Place, list_of};
use balancing_core::{
    control::{self, Request},
    manifest::{self, Format},
};
use balancing_dataplane::{
    cgroup::{self, PodUid},
    mount::Mounts,
    records,
};
use balancing_tests::{
    Node, TempDir, address,
    fuzz::{Target, fuzz},
    require_kernel,
};
use serde_json::Value;

/// How long an answer is waited for; not every broken request gets one.
const ANSWER: Duration = Duration::from_millis(20);
const JSON: &[&str] = &[
    "{", "}", "[", "]", "\"", ":", ",", "null", "true", "1e999", "-0", "\\ud800", "\\u0000", "\u{feff}",
    "{}", "[]",
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn try_out(name: &str, words: &[&str], run: &dyn Fn(&[u8]) -> String) {
    let words = [words, JSON].concat();
    let figures = fuzz(&corpus(), &Target { name, words: &words, run });
    assert!(figures.kinds > 1, "{name}: whatever comes, the same is said");
}

fn is_safe(uid: &PodUid) -> bool {
    !uid.as_str().is_empty() && uid.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A list without our plugin. `None`: with half a surrogate in a text, which Go takes and the installer hands on.
fn others(text: &str) -> Option<Value> {
    let mut list: Value = serde_json::from_str(text).ok()?;
    list["plugins"].as_array_mut().unwrap().retain(|plugin| plugin["type"] != PLUGIN);
    Some(list)
}

/// A list with and without ours, as the installer makes them.
fn edit(text: &str, place: &Place) -> String {
    const ENTRY: &str = r#"{"type":"balancing-cni","failurePolicy":"ignore"}"#;
    let list = match Conflist::parse(text) {
        Ok(list) => list,
        Err(error) => return error.to_string(),
    };
    let Some(with) = list.with(ENTRY, place) else {
        assert!(!list.has_others() || list.count() == 1 || list.would_lead(place));
        return "as it should be".to_owned();
    };
    let edited = Conflist::parse(&with).unwrap();
    assert_eq!(edited.count(), 1);
    assert!(edited.with(ENTRY, place).is_none(), "a second edit finds nothing to do");
    if let Some(others_of_text) = others(text) {
        assert_eq!(others(&with), Some(others_of_text), "only our entry differs");
    }
    let removed = edited.without().unwrap();
    let original = list.without().unwrap_or_else(|| text.to_owned());
    if list.count() == 0 {
        assert_eq!(removed, original, "removal gives the original bytes");
    }
    if let Some(others_of_original) = others(&original) {
        assert_eq!(others(&removed), Some(others_of_original));
    }
    let position = edited.types().position(|kind| kind == PLUGIN).unwrap();
    format!("put at {}", if position + 1 == edited.types().count() { "the end" } else { "another place" })
}

#[test]
fn editing_network_configurations() {
    let words = [
        "\"plugins\"",
        "\"type\"",
        "\"balancing-cni\"",
        "{\"type\":\"balancing-cni\"},",
        "\"bridge\"",
        "\"name\"",
        "\"cniVersion\"",
        ",{\"type\":\"x\"}",
        "\r\n",
    ];
    try_out("conflist", &words, &|input| {
        let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
        if let Ok(list) = list_of(text) {
            let parsed = Conflist::parse(&list).unwrap();
            assert_eq!(parsed.types().count(), 1);
        }
        edit(text, &Place::Before("portmap".to_owned())) + &edit(text, &Place::Last)
    });
}

#[test]
fn manifests() {
    let words = [
        "apiVersion: ",
        "kind: ",
        "metadata:",
        "spec:",
        "- ",
        "---\n",
        "&a ",
        "*a",
        "<<: *a",
        "!!binary ",
        "|\n",
        "'",
        "? ",
        "frontend:",
        "backend:",
        "toPorts:",
        "port: \"53\"",
        "protocol: UDP",
        "::1",
        "10.0.0.0/8",
    ];
    for format in [Format::Yaml, Format::Json] {
        try_out("manifest", &words, &|input| {
            let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
            match manifest::parse(text, format) {
                Ok(manifest) => {
                    let problems: Vec<String> =
                        manifest.problems.iter().map(|problem| format!("{problem:?}")).collect();
                    format!("{} objects, {}", "x".repeat(manifest.objects.len().min(9)), problems.join(","))
                }
                Err(error) => error.to_string(),
            }
        });
    }
}

#[test]
fn mounts() {
    try_out("mountinfo", &["cgroup2", "cgroup", " - ", "\\040", "\\", "\\777", "/../..", "\n"], &|input| {
        let mounts = Mounts::parse(input);
        format!(
            "{}{}",
            "v".repeat(mounts.cgroup2().count().min(9)),
            "w".repeat(mounts.cgroup_v1().count().min(9))
        )
    });
}

#[test]
fn paths_of_cgroups() {
    let root = TempDir::new("no-cgroup");
    let uid = PodUid::new("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0").unwrap();
    try_out(
        "cgroup-path",
        &["/", "..", "pod", ".slice", "_", "-", "kubepods", ":", "*", "%s", "\0"],
        &|input| {
            let text = String::from_utf8_lossy(input);
            let found = cgroup::uid_in_path(&text);
            assert!(found.iter().all(is_safe));
            // Nothing below this root is a cgroup, so whatever was found would be outside of it.
            let outcome =
                cgroup::find(root.path(), &uid, Some(&text), Duration::ZERO).unwrap_err().to_string();
            format!("{} {outcome}", if found.is_some() { "a pod" } else { "none" })
        },
    );
}

#[test]
fn records_of_the_plugin() {
    let place = TempDir::new("record");
    let path = place.path().join("c1_eth0.json");
    try_out(
        "record",
        &["\"podUid\"", "\"state\"", "\"attached\"", "\"excluded\"", "\"reason\"", "../"],
        &|input| {
            fs::write(&path, input).unwrap();
            match records::read_file(&path) {
                Ok(Some(dated)) => {
                    assert!(is_safe(&dated.record.pod_uid));
                    let again = serde_json::to_string(&dated.record).unwrap();
                    assert_eq!(serde_json::from_str::<records::Record>(&again).unwrap(), dated.record);
                    format!("{:?}", dated.record.state)
                }
                Ok(None) => "none".to_owned(),
                Err(error) => error.to_string(),
            }
        },
    );
}

#[test]
fn questions_to_the_agent() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("fuzz", &["--http", Node::HTTP, "--metrics", Node::METRICS]);
    node.start();
    let pid = node.agent().pid();
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = open();
    let socket = control::socket_path(node.run_dir());
    let words = ["\"command\"", "\"agent\"", "\"monitor\"", "\"pods\"", "\"frontend\"", "\n", "\0"];
    try_out("control", &words, &|input| {
        let parsed = serde_json::from_slice::<Request>(input).err().map(|error| error.to_string());
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        stream.write_all(input).and_then(|()| stream.shutdown(Shutdown::Write)).ok();
        let mut answer = [0; 40];
        let length = stream.read(&mut answer).unwrap_or(0);
        format!(
            "{} {}",
            parsed.unwrap_or_default(),
            String::from_utf8_lossy(&answer[..length]).split(':').next().unwrap_or_default()
        )
    });
    let words = [
        "GET ",
        "POST ",
        "/metrics",
        "/readyz",
        " HTTP/1.1",
        "\r\n",
        "Host: a\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\n",
        "%00",
        "?",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    node.host().run(|| {
        for server in [Node::HTTP, Node::METRICS] {
            try_out("http", &words, &|input| {
                let mut stream = TcpStream::connect(address(server)).unwrap();
                stream.set_read_timeout(Some(ANSWER)).unwrap();
                stream.write_all(input).and_then(|()| stream.shutdown(Shutdown::Write)).ok();
                let mut answer = [0; 12];
                let length = stream.read(&mut answer).unwrap_or(0);
                // The status in letters: numbers do not count.
                answer[..length]
                    .iter()
                    .map(|byte| if byte.is_ascii_digit() { char::from(byte + 49) } else { 'x' })
                    .collect()
            });
        }
    });
    assert_eq!(node.agent().pid(), pid);
    assert_eq!(node.http(Node::HTTP, "/readyz").map(|(status, _)| status), Some(200));
    assert!(node.view().is_ok());
    balancing_tests::wait_until(Duration::from_secs(60), || open() <= before);
}
