//! Bad surroundings: full tables, refused permissions, wrong settings. Each has a message with a remedy.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, os::unix::fs::chown, path::Path, process::Command};

use balancing_dataplane::{
    ABI,
    layout::{Hook, Layout},
};
use balancing_tests::*;
use serde_json::json;

const FRONTEND: &str = "10.96.0.1:80";
/// Ports of a Service of [`fill`].
const PORTS: u16 = 100;

/// So many Services with 100 ports, each with a policy, in the order of their addresses.
fn fill(node: &Node, services: u16) {
    let named: Vec<String> = (1..=PORTS).map(|port| format!("p{port}")).collect();
    let ports: Vec<(&str, u16)> = named.iter().map(String::as_str).zip(1..).collect();
    let objects = (0..services).map(|number| {
        let ip = format!("10.97.{}.{}", number / 250, number % 250);
        Object::service(&format!("s{number:03}"), &[&ip], &ports)
    });
    node.apply_text("services.json", &Object::list(objects).json());
    for number in 0..services {
        node.apply(&full_policy(number));
    }
    node.apply(&Object::pod("local", "local", &["10.1.0.1"]));
}

fn full_policy(number: u16) -> Object {
    Object::balancing(&format!("p{number:03}"), "", 80, "local").for_service(&format!("s{number:03}"))
}

/// Starts with more frontends than there is room for, sees who is told what, and makes room.
fn overflow(mut node: Node, services: u16, room: u16) {
    let _local = node.serve("local", &["10.1.0.1:80"]);
    fill(&node, services);
    node.start_until(|view| view.source.synced && !view.problems.is_empty());
    let capacity = if room == 10 { 1_000 } else { 65_536 };
    let full = format!("table frontends is full ({capacity} entries): ");
    let remedy = "raise --max-frontends and run `balancing-agent cleanup` before the next start";
    let view = node.wait_view(|view| view.problems.iter().any(|line| line.contains(&full)));
    assert!(!view.ready && view.problems.len() < 10, "short: {:?}", view.problems);
    let missing = usize::from(services) * usize::from(PORTS) - capacity;
    let rest = format!("{} more frontends are not programmed", missing - 3);
    assert!(view.problems.contains(&rest), "{rest} is not in {:?}", view.problems);
    let policies = node.policies();
    let (programmed, failed): (Vec<_>, Vec<_>) = policies.iter().partition(|policy| policy.programmed);
    assert_eq!((programmed.len(), failed.len()), (usize::from(room), usize::from(services - room)));
    for policy in failed {
        assert!(policy.message.contains(&full) && policy.message.contains(remedy), "{}", policy.message);
    }
    assert_eq!(node.layers().len(), capacity);
    let status = node.ctl_json(&["status"]);
    assert_eq!(
        (&status["tables"][0]["used"], &status["tables"][0]["capacity"]),
        (&capacity.into(), &capacity.into())
    );
    let mut client = node.client();
    assert_eq!(client.ask_tcp(address("10.97.0.0:1")).as_deref(), Ok("local"), "the others work");

    // Room for those that failed.
    for number in 0..services - room {
        node.delete(&full_policy(number));
    }
    node.wait_view(|view| view.ready);
    let last = format!("10.97.{}.{}:{PORTS}", (services - 1) / 250, (services - 1) % 250);
    assert_eq!(client.ask_tcp(address(&last)).as_deref(), Ok("local"));
    assert!(node.policies().iter().all(|policy| policy.programmed));
    assert!(node.agent().log().lines().count() < 3 * usize::from(services), "the log is not flooded");
}

#[test]
fn a_small_table_that_is_too_small() {
    if !require_kernel() {
        return;
    }
    overflow(Node::with("full-small", &["--max-frontends", "1000"]), 12, 10);
}

#[test]
fn seventy_thousand_frontends_do_not_fit_by_default() {
    if !require_kernel() {
        return;
    }
    overflow(Node::new("full"), 700, 655);
}

#[test]
fn a_table_of_backends_that_is_too_small() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("full-backends", &["--max-backends", "8"]);
    let _local = node.serve("local", &["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"]);
    let three = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let policy =
        |number: u8| Object::balancing_to(&format!("p{number}"), &format!("10.97.0.{number}"), 80, &three);
    (1..=3).for_each(|number| node.apply(&policy(number)));
    node.start_until(|view| view.source.synced && !view.problems.is_empty());
    let failed = node.wait_policy("p3", |policy| !policy.programmed);
    let words = "table backends is full (8 entries): 10.97.0.3:80/TCP, which needs 3 in a row, does not fit; raise --max-backends";
    assert!(failed.message.contains(words), "{}", failed.message);
    assert_eq!(failed.reason, "TableFull", "not Applied");
    let told = node.ctl_json(&["explain", "10.97.0.3:80"]);
    let decision = told["decision"].as_str().unwrap();
    assert!(decision.starts_with("not in force: redirected by BalancingPolicy p3"), "{told}");
    assert!(
        decision.contains("table backends is full") && decision.contains("where they were dialled"),
        "{told}"
    );
    assert_eq!((&told["winner"], &told["backends"]), (&json!(null), &json!([])));
    assert!(dropped(&node, "backends") > Some(0));
    assert_eq!(dropped(&node, "qos"), Some(0));
    assert_eq!(node.client().ask_tcp(address("10.97.0.2:80")).as_deref(), Ok("local"));
    node.delete(&policy(1));
    node.wait_policy("p3", |policy| policy.programmed);
}

#[test]
fn a_policy_without_a_window_is_named() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("full-windows", &["--max-qos-policies", "1", "--redirect-qos-limit", "5"]);
    node.apply(&Object::pod("local", "local", &["10.1.0.1"]));
    for number in 1..=2 {
        node.apply(&Object::local_redirect(&format!("p{number}"), &format!("10.97.0.{number}"), 80, "local"));
    }
    node.start_until(|view| view.source.synced && !view.problems.is_empty());
    let failed = node.wait_policy("p2", |policy| !policy.programmed);
    let words =
        "table qos is full (1 entries): LocalRedirectPolicy p2 does not fit; raise --max-qos-policies";
    assert!(failed.message.contains(words), "{}", failed.message);
    assert!(dropped(&node, "qos") > Some(0));
}

#[test]
fn exempt_clients_that_do_not_fit_are_told_and_tried_again() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("full-exempt", &["--max-skips", "1"]);
    let pods = ["a", "b"].map(|name| {
        let pod = Object::pod(name, name, &["192.0.2.1"]).annotated("balancing.elf.io/redirect", "disabled");
        pod.with("/spec/hostNetwork", true)
    });
    let _cgroups = pods.each_ref().map(|pod| node.pod_cgroup(pod));
    pods.iter().for_each(|pod| node.apply(pod));
    node.start_until(|view| view.source.synced && !view.problems.is_empty());
    let view = node.view().unwrap();
    assert!(!view.ready, "{view:?}");
    let words = "table skips is full (1 entries): exempt client of cgroup";
    assert!(view.problems.iter().any(|problem| problem.contains(words)), "{view:?}");
    node.delete(&pods[1]);
    node.wait_view(|view| view.ready && view.problems.is_empty());
}

/// What `balancingctl status` says of a table.
fn dropped(node: &Node, table: &str) -> Option<u64> {
    let status = node.ctl_json(&["status"]);
    let rows = status["tables"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == table).unwrap()["dropped"].as_u64()
}

/// Runs the agent to its end: exit status and words.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The agent's arguments for a node, in a form for a shell.
fn arguments(node: &Node, bpffs: &Path) -> String {
    format!(
        "--source dir:{} --node-name n1 --cgroup-root {} --run-dir {} --bpffs {} --http off --metrics off",
        node.objects().display(),
        node.cgroup().path().display(),
        node.run_dir().display(),
        bpffs.display()
    )
}

#[test]
fn another_shape_is_refused_and_nothing_changes() {
    if !require_kernel() {
        return;
    }
    let mut node = Node::with("shape", &["--max-frontends", "1000"]);
    let _servers = [node.serve("original", &[FRONTEND]), node.serve("local", &["10.1.0.1:80"])];
    node.apply(&Object::pod("local", "local", &["10.1.0.1"]));
    node.apply(&Object::local_redirect("policy", "10.96.0.1", 80, "local"));
    node.start();
    node.agent().terminate();
    let command = format!("exec {} {}", program("balancing-agent").display(), arguments(&node, node.bpffs()));
    for (flag, words) in [
        (
            "--max-frontends 2000",
            "were made with --max-frontends 1000, the settings say --max-frontends 2000",
        ),
        (
            "--max-frontends 1000 --max-backends 77 --max-skips 5",
            "were made with --max-backends 65536 --max-skips 8192, the settings say --max-backends 77 --max-skips 5",
        ),
        (
            "--max-frontends 1000 --max-connections 65536",
            "were made with --max-connections 262144, the settings say --max-connections 65536",
        ),
    ] {
        let (code, said) = refused(Command::new("sh").args(["-c", &format!("{command} {flag}")]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words) && said.contains("balancing-agent cleanup"), "{said}");
    }
    assert_eq!(node.client().ask_tcp(address(FRONTEND)).as_deref(), Ok("local"), "redirection goes on");
    node.start();
    assert_eq!(node.layers().len(), 1);
}

#[test]
fn every_wrong_flag_is_in_one_message() {
    let flags = [
        "--source=nowhere",
        "--scope=some",
        "--max-connections=70000",
        "--redirect-qos-limit=many",
        "--bpffs=bpf",
        "--http=localhost",
    ];
    let mut command = Command::new(program("balancing-agent"));
    let (code, said) = refused(command.args(flags).env("BALANCING_ROLE", "boss"));
    assert_eq!(code, Some(64), "{said}");
    for words in [
        "--source nowhere: must be kube, or dir:PATH",
        "--scope some: must be one of all, pods, host",
        "--max-connections 70000: must be a power of two; use 131072",
        "--redirect-qos-limit many: must be a number from 0",
        "--bpffs bpf: must be an absolute path",
        "--role boss: must be one of node, external",
        "--http localhost: must be ADDRESS:PORT",
    ] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    let (code, said) = refused(Command::new(program("balancing-agent")).arg("--surprise"));
    assert!(code == Some(64) && said.contains("--surprise"), "{said}");
}

#[test]
fn a_directory_that_is_no_cgroup2_is_refused() {
    if !require_kernel() {
        return;
    }
    let node = Node::new("cgroup-v1");
    let v1 = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v1 = v1.lines().find(|line| line.contains(" - cgroup ")).and_then(|line| line.split(' ').nth(4));
    for (wrong, words) in
        [(v1.unwrap_or("/tmp"), "is not on cgroup2"), ("/nonexistent", "No such file or directory")]
    {
        let arguments = arguments(&node, node.bpffs()).replace(node.cgroup().path().to_str().unwrap(), wrong);
        let command = format!("exec {} {arguments}", program("balancing-agent").display());
        let (code, said) = refused(Command::new("sh").args(["-c", &command]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("--cgroup-root") && said.contains(wrong) && said.contains(words), "{said}");
        assert!(said.contains("give the directory where the cgroup2 hierarchy is mounted"), "{said}");
    }
    assert!(!node.bpffs().join("balancing").exists(), "nothing was loaded");
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    if !require_kernel() {
        return;
    }
    let node = Node::new("foreign");
    let base = node.bpffs().join("balancing");
    fs::create_dir(&base).unwrap();
    std::os::unix::fs::chown(&base, Some(65534), Some(65534)).unwrap();
    let output = node.run_to_end();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = format!("{} belongs to user 65534", base.display());
    assert!(output.status.code() == Some(1) && said.contains(&words) && said.contains("remove it"), "{said}");
    std::os::unix::fs::chown(&base, Some(0), Some(0)).unwrap();
    fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let said = String::from_utf8_lossy(&node.run_to_end().stderr).into_owned();
    assert!(said.contains("with mode 777"), "{said}");
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0, "nothing was loaded");
}

#[test]
fn a_part_of_the_cgroup_hierarchy_is_not_taken_for_the_host() {
    if !require_kernel() {
        return;
    }
    let (node, mount) = (Node::new("part"), TempDir::new("cgroups"));
    let own = node.cgroup().child("container");
    let arguments = arguments(&node, node.bpffs());
    let given = format!("--cgroup-root {}", node.cgroup().path().display());
    let agent = program("balancing-agent");
    // A container with a cgroup namespace of its own, in which its own cgroup looks like the root.
    for root in [String::new(), format!("--cgroup-root {}", mount.path().display())] {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec unshare --cgroup --mount sh -c '\
             grep \" - cgroup2 \" /proc/self/mountinfo | cut -d\" \" -f5 | xargs -rn1 umount -l; \
             mount -t cgroup2 none {} && exec {} {}'",
            own.path().display(),
            mount.path().display(),
            agent.display(),
            arguments.replace(&given, &root),
        );
        let (code, said) = refused(Command::new("sh").args(["-c", &script]));
        assert_eq!(code, Some(1), "{said}");
        let words = format!("{} is not the root of the cgroup2 hierarchy", mount.path().display());
        assert!(said.contains(&words) && said.contains("--cgroup-root"), "{said}");
    }
}

#[test]
fn a_bpffs_that_is_read_only() {
    if !require_kernel() {
        return;
    }
    let node = Node::new("read-only");
    let mount = TempDir::new("bpffs");
    let agent = format!("{} {}", program("balancing-agent").display(), arguments(&node, mount.path()));
    let bpffs = mount.path().display();
    // In a mount namespace of its own, which takes the mount with it.
    let empty = format!("mount -t bpf bpf {bpffs} && mount -o remount,ro {bpffs} && exec {agent}");
    let marker = Layout::new(mount.path(), ABI).program(Hook::Connect6);
    let filled = format!(
        "mount -t bpf bpf {bpffs}; {agent} & pid=$!; until [ -e {} ]; do sleep 0.02; done; kill $pid; wait $pid; \
         mount -o remount,ro {bpffs} && exec {agent}",
        marker.display()
    );
    for script in [empty, filled] {
        let (code, said) = refused(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
        assert_eq!(code, Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.contains("Read-only file system") && last.contains("mounted read-write"), "{said}");
        assert!(last.contains(mount.path().to_str().unwrap()), "{said}");
    }
}

#[test]
fn a_run_directory_that_is_mounted_is_emptied_by_cleanup() {
    if !require_kernel() {
        return;
    }
    let node = Node::new("mounted");
    let run_dir = node.run_dir().display();
    let cleanup = format!(
        "{} cleanup --run-dir {run_dir} --bpffs {}",
        program("balancing-agent").display(),
        node.bpffs().display()
    );
    // As in a container: it is a mount, and what is above it cannot be written.
    for read_only in
        ["true".to_owned(), format!("mount --bind -o ro {0} {0}", node.run_dir().parent().unwrap().display())]
    {
        let script = format!(
            "{read_only} && mount -t tmpfs run {run_dir} && touch {run_dir}/plugin.json && {cleanup} && ls -A {run_dir}"
        );
        let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
}

#[test]
fn without_privileges_it_says_what_it_may_not() {
    if !require_kernel() {
        return;
    }
    let node = Node::new("nobody");
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all";
    // Whoever runs the tests may keep the build where nobody else can read it.
    let files = TempDir::new("nobody");
    let agent = files.path().join("balancing-agent");
    fs::copy(program("balancing-agent"), &agent).unwrap();
    let bpffs = files.path().join("bpffs");
    fs::create_dir(&bpffs).unwrap();
    let command = format!("exec {nobody} {} {}", agent.display(), arguments(&node, &bpffs));
    // A bpffs of its own, in a mount namespace of its own: nobody may be able to look into the machine's.
    let run_with = |mode: &str, words: &[&str]| {
        let script = format!("mount -t bpf -o mode={mode} bpf {} && {command}", bpffs.display());
        let (code, said) = refused(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
        assert_eq!(code, Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    run_with("755", &["Permission denied", node.run_dir().to_str().unwrap()]);
    chown(node.run_dir(), Some(65534), Some(65534)).unwrap();
    let there = bpffs.to_str().unwrap();
    run_with("755", &["Permission denied", there, "is the agent allowed to write there?"]);
    run_with("1777", &["Operation not permitted", "CAP_BPF"]);
}
