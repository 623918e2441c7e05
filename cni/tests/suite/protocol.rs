//! What needs no kernel: variables, input, versions, errors.

use std::{
    fs::OpenOptions,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::plugin::{Answer, BINARY, Nowhere};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Runs with bytes that need not be a configuration.
fn raw(command: &str, input: &[u8]) -> Answer {
    let mut child = Command::new(BINARY)
        .env_clear()
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", "dummy"), ("CNI_NETNS", "dummy")])
        .envs([("CNI_IFNAME", "dummy"), ("CNI_PATH", "dummy")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take().unwrap().write_all(input));
    Answer::of(child)
}

#[test]
fn a6_without_a_command_it_introduces_itself() {
    let answer = raw("", b"");
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), ""));
    assert!(answer.stderr.contains("balancing-cni") && answer.stderr.contains("0.3.0"), "{}", answer.stderr);
}

#[test]
fn a7_version_answers_whatever_is_on_stdin() {
    for (input, version) in [
        (&b""[..], "1.1.0"),
        (b"{}", "1.1.0"),
        (b"garbage\xff", "1.1.0"),
        (b"{\"cniVersion\":\"0.4.0\"}", "0.4.0"),
        (b"{\"cniVersion\":\"9.9.9\"}", "1.1.0"),
    ] {
        let answer = raw("VERSION", input);
        assert_eq!(answer.code, Some(0));
        let reply: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(reply, json!({"cniVersion": version, "supportedVersions": VERSIONS}));
    }
}

#[test]
fn a7_version_does_not_wait_for_an_open_stdin() {
    let mut child = Command::new(BINARY)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _open = child.stdin.take().unwrap();
    let answer = Answer::of(child);
    assert_eq!(answer.code, Some(0));
    assert!(answer.stdout.contains("supportedVersions"));
}

#[test]
fn a1_a12_a15_every_version_in_its_own() {
    let nowhere = Nowhere::new("versions");
    for version in VERSIONS {
        let call = nowhere.call("u").with("cniVersion", json!(version));
        call.add();
        call.silent("DEL");
        let answer = call.clone().with("failurePolicy", json!("fail")).with("bpffs", json!(1)).run("ADD");
        answer.error(7);
        assert_eq!(serde_json::from_str::<Value>(&answer.stdout).unwrap()["cniVersion"], version);
    }
    for version in ["0.1.0", "0.2.0", "1.2.0", "foo"] {
        let message = nowhere.call("u").with("cniVersion", json!(version)).fail("ADD", 1);
        assert!(message.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{message}");
    }
}

#[test]
fn f17_commands_that_a_version_does_not_have() {
    let nowhere = Nowhere::new("since");
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        let message = nowhere.call("u").with("cniVersion", json!(version)).fail(command, 1);
        assert!(message.contains(command), "{message}");
    }
}

#[test]
fn a2_a4_a5_a9_variables_are_checked_before_anything_is_read() {
    let nowhere = Nowhere::new("variables");
    let message =
        nowhere.call("u").unset("CNI_CONTAINERID").unset("CNI_NETNS").unset("CNI_IFNAME").fail("ADD", 4);
    assert!(message.contains("CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"), "{message}");
    nowhere.call("u").set("CNI_CONTAINERID", "../x").fail("DEL", 4);
    nowhere.call("u").set("CNI_IFNAME", "a/b").fail("ADD", 4);
    nowhere.call("../../etc").fail("ADD", 4);
    nowhere.call("../../etc").silent("DEL");
    nowhere.call("u").set("CNI_ARGS", "X=1").fail("ADD", 4);
    for command in ["add", "ADD ", "PING"] {
        nowhere.call("u").fail(command, 4);
    }
    nowhere.call("u").unset("CNI_NETNS").unset("CNI_ARGS").silent("DEL");
    assert!(!nowhere.0.join("cni").exists());
}

#[test]
fn a13_input_that_is_no_configuration() {
    let huge = format!("{{\"cniVersion\":\"1.0.0\",\"x\":\"{}\"}}", "x".repeat(10 << 20));
    for input in [&b""[..], b"{\"cniVersion\":\"1.0.0\"", b"[]", b"\xff\xfe", huge.as_bytes()] {
        for command in ["ADD", "DEL", "STATUS", "GC"] {
            raw(command, input).error(6);
        }
    }
}

#[test]
fn b3_b11_b14_add_comes_after_another_plugin() {
    let nowhere = Nowhere::new("chained");
    let mut call = nowhere.call("u");
    call.prev_result = None;
    let message = call.fail("ADD", 7);
    assert!(message.contains("prevResult"), "{message}");
    for (result, code) in [("null", 6), ("[]", 6), ("{\"cniVersion\":\"0.2.0\"}", 1), ("{\"ip4\":{}}", 1)] {
        call.prev_result = Some(result.to_owned());
        call.fail("ADD", code);
    }
}

#[test]
fn a22_b8_b9_the_result_is_handed_on_byte_for_byte_and_logs_stay_elsewhere() {
    let nowhere = Nowhere::new("bytes");
    let call = nowhere.call("u").set("TRACEPARENT", "00-abc-def-01");
    let mut call = call.set("TRACESTATE", "a=b").set("BAGGAGE", "k=v");
    call.prev_result = Some(crate::plugin::RESULT.to_owned());
    let answer = call.add();
    assert!(answer.stderr.contains("without redirection"), "{}", answer.stderr);
    assert!(answer.stderr.contains("00-abc-def-01"), "{}", answer.stderr);
    let logged = std::fs::read_to_string(nowhere.0.join("cni.log")).unwrap();
    assert!(logged.contains("without redirection"), "{logged}");
    assert_eq!(call.records()[0]["state"], "pending");
    // CRI-O checks at once what was just ignored.
    call.silent("CHECK");
    call.silent("DEL");
    assert!(call.records().is_empty());
}

#[test]
fn a17_an_answer_that_nobody_can_read_is_a_failure() {
    let nowhere = Nowhere::new("full");
    let call = nowhere.call("u");
    let mut child = Command::new(BINARY)
        .env_clear()
        .env("CNI_COMMAND", "ADD")
        .envs(&call.variables)
        .stdin(Stdio::piped())
        .stdout(OpenOptions::new().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(call.input().as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    call.add();
}

#[test]
fn a_run_directory_that_cannot_be_made_stops_nothing_under_ignore() {
    let nowhere = Nowhere::new("run");
    let call = nowhere.call("u").with("runDir", json!("/proc/self/status/run"));
    call.add();
    call.silent("DEL");
    call.with("failurePolicy", json!("fail")).fail("ADD", 5);
}

#[test]
fn f20_status_names_everything_that_is_missing() {
    let nowhere = Nowhere::new("status");
    let elsewhere = nowhere.call("u").with("bpffs", json!("/tmp")).with("cgroupRoot", json!("/tmp"));
    let log = elsewhere.succeed("STATUS");
    assert!(log.contains("/tmp is not a bpffs") && log.contains("/tmp is not on cgroup2"), "{log}");
    let message = elsewhere.with("failurePolicy", json!("fail")).fail("STATUS", 50);
    assert!(message.contains("/tmp is not on cgroup2") && !message.contains("bpffs"), "{message}");
}

#[test]
fn a14_a_configuration_that_does_not_come() {
    let nowhere = Nowhere::new("silence");
    let call = nowhere.call("u");
    let run = |script: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, BINARY]).env_clear().env("CNI_COMMAND", "DEL").envs(&call.variables);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Closed before it began: it is as if it were empty.
    Answer::of(run("exec \"$0\" <&-")).error(6);
    let begin = Instant::now();
    let mut hanging = run("exec \"$0\"");
    let mut stdin = hanging.stdin.take().unwrap();
    stdin.write_all(b"{").unwrap();
    let message = Answer::of(hanging).error(5);
    assert!(message.contains("stdin was not closed in time"), "{message}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

/// Whatever is asked and however it ends: stdout holds one JSON document or nothing.
#[test]
fn a16_stdout_holds_one_document_or_nothing() {
    let nowhere = Nowhere::new("document");
    let call = nowhere.call("u");
    let [mut chained, mut alone, mut broken] = [call.clone(), call.clone(), call.clone()];
    chained.prev_result = Some(crate::plugin::RESULT.to_owned());
    alone.prev_result = None;
    broken.prev_result = Some("{".to_owned());
    let calls = [
        chained.clone(),
        alone,
        broken,
        chained.clone().with("failurePolicy", json!("fail")),
        chained.clone().with("runDir", json!("/proc/self/status/run")),
        chained.clone().with("cniVersion", json!("0.3.1")),
        chained.clone().with("cni.dev/valid-attachments", json!(null)),
        chained.clone().with("logLevel", json!(["trace"])).with("misspelt", json!("\n")),
        chained.set("CNI_CONTAINERID", "\n{}\n"),
    ];
    let mut seen = [0, 0];
    for call in &calls {
        for command in ["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION", "NONE", ""] {
            let answer = call.run(command);
            if answer.stdout.is_empty() {
                assert_eq!(answer.code, Some(0), "{command}");
            } else {
                let value: Value = serde_json::from_str(&answer.stdout).unwrap();
                assert_eq!(answer.code == Some(0), value.get("code").is_none(), "{command}: {value}");
            }
            seen[usize::from(answer.code == Some(0))] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}
