//! `balancingctl doctor` on hosts where something is wrong, and where nothing is.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Command, Output},
    time::{Duration, Instant},
};

use balancing_dataplane::{
    ABI,
    layout::{Hook, Layout},
    sys,
};
use balancing_tests::*;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const FRONTEND: &str = "10.96.0.1";

/// What doctor found: exit status, and the messages of a level or worse.
struct Found {
    status: i32,
    findings: Vec<Value>,
}

impl Found {
    fn of(node: &Node) -> Self {
        let output = node.ctl(&["doctor", "-o", "json"]);
        let findings = serde_json::from_slice(&output.stdout).unwrap();
        Self { status: output.status.code().unwrap(), findings }
    }

    /// Messages of a level, each after its topic, with what is to be done.
    fn at(&self, level: &str) -> Vec<String> {
        let of = |finding: &&Value| finding["level"] == level;
        let text = |finding: &Value| {
            let field = |name: &str| finding[name].as_str().unwrap().to_owned();
            format!("{}: {} -> {}", field("topic"), field("message"), field("remedy"))
        };
        self.findings.iter().filter(of).map(text).collect()
    }

    /// One thing at a level, and nothing else.
    #[track_caller]
    fn only(&self, level: &str, words: &[&str]) {
        let found = self.at(level);
        assert!(found.len() == 1 && words.iter().all(|word| found[0].contains(word)), "{found:#?}");
    }
}

fn node(topic: &str, arguments: &[&str]) -> (Node, Object) {
    let node = Node::with(topic, arguments);
    let pod = Object::pod("pod", "local", &["10.1.0.1"]);
    node.apply(&pod);
    node.apply(&Object::local_redirect("policy", FRONTEND, 80, "local"));
    (node, pod)
}

#[test]
fn a_host_where_nothing_runs_and_one_where_all_is_well() {
    if !require_kernel() {
        return;
    }
    let (mut node, pod) = node("doctor-well", &[]);
    let found = Found::of(&node);
    assert_eq!(found.status, 1);
    let problems = found.at("problem");
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].contains("nothing is redirected -> start balancing-agent"), "{problems:#?}");
    let _cgroup = node.pod_cgroup(&pod);
    node.start();
    let found = Found::of(&node);
    assert_eq!((found.status, found.at("problem"), found.at("warning")), (0, vec![], vec![]));
    let fine = found.at("ok").join("\n");
    assert!(fine.contains("all 8 hooks run") && fine.contains("1 of 1 local pods"), "{fine}");
    // People read the same.
    let text = String::from_utf8(node.ctl(&["doctor"]).stdout).unwrap();
    assert!(text.ends_with("0 problems, 0 warnings\n"), "{text}");
    // What the agent leaves in force is no problem but for itself.
    node.agent().kill();
    Found::of(&node)
        .only("problem", &["agent: no agent answers", "redirection goes on", "start balancing-agent"]);
}

#[test]
fn links_that_are_gone_behind_a_hanging_agent() {
    if !require_kernel() {
        return;
    }
    let (mut node, pod) = node("doctor-hang", &[]);
    let cgroup = node.pod_cgroup(&pod);
    node.start();
    wait_until(Duration::from_secs(20), || node.ctl_json(&["pods"]).as_array().unwrap().len() == 1);
    let agent = Pid::from_raw(node.agent().pid().cast_signed());
    kill(agent, Signal::SIGSTOP).unwrap();
    for dir in [node.layout(ABI).pods().join(pod.uid()), node.layout(ABI).host()] {
        sys::link_detach(sys::obj_get(&dir.join(Hook::Connect4.name())).unwrap().as_fd()).unwrap();
    }
    let start = Instant::now();
    let found = Found::of(&node);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    kill(agent, Signal::SIGCONT).unwrap();
    let problems = found.at("problem");
    assert_eq!((found.status, problems.len()), (1, 3), "{problems:#?}");
    assert!(problems[0].contains("did not answer within 10 s"), "{problems:#?}");
    assert!(problems[1].contains("7 of 8 hooks run at"), "{problems:#?}");
    let of_pod = format!("have links, and in the kernel not all hooks run: {} (7 of 8 hooks run)", pod.uid());
    assert!(problems[2].contains(&of_pod), "{problems:#?}");
    // It runs: what to do about it is told once.
    assert!(problems.iter().all(|problem| !problem.contains("start the agent")), "{problems:#?}");
    assert!(problems[1..].iter().all(|problem| problem.ends_with("-> ")), "{problems:#?}");
    // A second later the agent has mended both.
    wait_until(Duration::from_secs(20), || Found::of(&node).status == 0);
    drop(cgroup);
}

#[test]
fn what_is_left_differs_or_is_broken() {
    if !require_kernel() {
        return;
    }
    let (mut node, pod) = node("doctor-left", &["--exclude-namespaces", "kube-system"]);
    let _cgroup = node.pod_cgroup(&pod);
    node.start();
    let plugin = Plugin::of(&node).with("excludeNamespaces", json!(["default"]));
    plugin.add(&pod, "c1", None);
    Found::of(&node).only("warning", &["the agent has kube-system, the plugin default", "leave the key out"]);
    let status = node.ctl_json(&["status"]);
    assert!(status["differences"][0].as_str().unwrap().contains("excluded namespaces"), "{status}");
    Plugin::of(&node).add(&pod, "c1", None);
    assert_eq!(Found::of(&node).at("warning"), [""; 0]);

    let record = node.run_dir().join("cni/cluster/broken_eth0.json");
    fs::write(&record, "{").unwrap();
    Found::of(&node).only("warning", &["broken_eth0.json", "remove the file"]);
    fs::remove_file(&record).unwrap();

    fs::write(node.run_dir().join("node.json"), "{}").unwrap();
    let found = Found::of(&node);
    found.only("warning", &["node.json does not hold the settings", "restart the agent"]);
    assert!(found.at("note").join("\n").contains("host processes are hooked was not looked at"));
    // What the plugin has told is lost, and its records are not.
    fs::remove_file(node.run_dir().join("plugin.json")).unwrap();
    assert!(Found::of(&node).at("note").join("\n").contains("it has records of 1 attachments"));
    // Only a running agent removes what another version has left.
    node.agent().terminate();
    fs::create_dir_all(Layout::new(node.bpffs(), ABI - 1).pods()).unwrap();
    let warnings = Found::of(&node).at("warning").join("\n");
    assert!(warnings.contains("is left from another version, with the links of 0 pods"), "{warnings}");
    node.start();
    wait_until(Duration::from_secs(20), || Found::of(&node).at("warning").is_empty());
    assert_eq!(Found::of(&node).status, 0);
}

#[test]
fn a_policy_that_does_nothing_is_told_with_its_message() {
    if !require_kernel() {
        return;
    }
    let (mut node, pod) = node("doctor-policies", &[]);
    let _cgroup = node.pod_cgroup(&pod);
    node.apply(&Object::balancing("refuses", "10.96.0.2", 80, "nobody"));
    node.start();
    let found = Found::of(&node);
    assert_eq!(found.status, 0);
    found.only(
        "warning",
        &["policies: BalancingPolicy refuses: ", "connections are refused", "make a backend"],
    );
    node.agent().kill();
    let found = Found::of(&node);
    assert!(found.findings.iter().all(|finding| finding["topic"] != "policies"), "{:#?}", found.findings);
}

/// `balancingctl` as a user without rights, who may run it.
fn as_nobody(node: &Node, arguments: &[&str]) -> Output {
    const NOBODY: u32 = 65534;
    let directory = TempDir::new("nobody");
    let own = directory.path().join("balancingctl");
    fs::copy(program("balancingctl"), &own).unwrap();
    let mut command = Command::new(own);
    command.args(arguments).arg("--bpffs").arg(node.bpffs()).arg("--run-dir").arg(node.run_dir());
    command.uid(NOBODY).gid(NOBODY).output().unwrap()
}

#[test]
fn the_agents_bpffs_is_found_by_its_run_directory() {
    if !require_kernel() {
        return;
    }
    let (mut node, pod) = node("doctor-place", &[]);
    let _cgroup = node.pod_cgroup(&pod);
    node.start();
    let mut command = Command::new(program("balancingctl"));
    let output = command.arg("doctor").arg("--run-dir").arg(node.run_dir()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn who_may_not_look_is_told_that_and_nothing_false() {
    if !require_kernel() {
        return;
    }
    let (mut node, pod) = node("doctor-nobody", &[]);
    let _cgroup = node.pod_cgroup(&pod);
    node.start();
    let output = as_nobody(&node, &["doctor", "-o", "json"]);
    let findings = serde_json::from_slice(&output.stdout).unwrap();
    let found = Found { status: output.status.code().unwrap(), findings };
    assert_eq!((found.status, found.findings.len()), (1, 1), "{:#?}", found.findings);
    found.only("problem", &["rights: ", "run this as root"]);
    for command in ["status", "policies", "frontends", "backends", "pods"] {
        let output = as_nobody(&node, &[command]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {error}");
        assert!(
            error.contains("permission denied") && error.contains("run this as root"),
            "{command}: {error}"
        );
    }
}

#[test]
fn a_table_is_told_before_it_is_full_and_when_it_is() {
    if !require_kernel() {
        return;
    }
    let (mut node, pod) = node("doctor-tables", &["--max-frontends", "10"]);
    let _cgroup = node.pod_cgroup(&pod);
    let frontend =
        |number: u16| Object::local_redirect(&format!("p{number}"), FRONTEND, 100 + number, "local");
    (0..7).for_each(|number| node.apply(&frontend(number)));
    node.start();
    let found = Found::of(&node);
    found.only("warning", &["frontends: 8 of 10 are used", "--max-frontends", "redirection ends"]);
    assert_eq!(found.status, 0, "nothing is lost yet");
    (7..20).for_each(|number| node.apply(&frontend(number)));
    node.wait_view(|view| !view.ready);
    let found = Found::of(&node);
    assert_eq!(found.status, 1);
    let problems = found.at("problem").join("\n");
    assert!(problems.contains("frontends:") && problems.contains("found no room"), "{problems}");
}
