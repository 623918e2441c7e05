//! The plugin and its installer, killed at every system call: whatever is done next finds its way, and nothing stays.
//!
//! Each call is run once per point: killed before its first system call, after it, before the second, and so on, until it
//! comes to its end (`ptrace`, see `balancing_tests::traced`).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use balancing_cni_install::{
    conflist::Place,
    directory::Runtime,
    keeper::{Choice, Settings},
};
use balancing_dataplane::layout::Hook;
use balancing_tests::{
    Cgroup, Pinned, TempDir, eventually,
    pinned::{running, variables},
    program, require_kernel,
    traced::{
        Ended,
        Side::{self, Entry, Exit},
        Victim,
    },
    wait_until,
};
use serde_json::Value;

const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
/// How long the kernel may take to end the links of a killed process.
const SOON: Duration = Duration::from_secs(30);

/// A call that takes longer than this waits for something.
const WAITS: Duration = Duration::from_secs(1);

/// Kills a victim at each of its system calls. `before` makes the world anew, `after` is what comes next. Returns the number
/// of calls.
fn at_each_call(victim: &Victim, before: impl Fn(), after: impl Fn(usize, Side)) -> usize {
    let mut number = 1;
    loop {
        let mut step = 1;
        for side in [Entry, Exit] {
            before();
            let begin = Instant::now();
            let traced = victim.killed_at(number, side);
            // Behind a place where it waits it is killed at fewer.
            step = if begin.elapsed() > WAITS { 5 } else { 1 };
            if let Ended::Code(code) = traced.ended {
                assert_eq!(code, 0, "{}", traced.said);
                if side == Entry {
                    return number - 1;
                }
            }
            after(number, side);
        }
        number += step;
    }
}

struct World {
    host: Pinned,
    cgroup: Cgroup,
}

impl World {
    fn new(topic: &str) -> Self {
        let host = Pinned::new(topic);
        let cgroup = host.pod(UID);
        Self { host, cgroup }
    }

    fn victim(&self, command: &str) -> Victim {
        Victim::new(&program("balancing-cni"), [""; 0])
            .with_environment(variables(command, UID))
            .with_input(self.host.config())
    }

    /// As after a boot, with a pod that has a cgroup.
    fn reset(&self) {
        self.host.forget();
        self.assert_gone(0, Entry);
    }

    #[track_caller]
    fn assert_gone(&self, number: usize, side: Side) {
        let traces = self.host.traces();
        assert!(traces.is_empty(), "killed at {side:?} of call {number}: {traces:?}");
        wait_until(SOON, || Hook::ALL.iter().all(|hook| running(&self.cgroup, *hook) == 0));
    }

    #[track_caller]
    fn assert_attached(&self, number: usize, side: Side) {
        let links = self.host.links(UID);
        assert_eq!(links.len(), Hook::ALL.len(), "killed at {side:?} of call {number}: {links:?}");
        wait_until(SOON, || self.host.is_attached(UID, &self.cgroup));
    }
}

#[test]
fn e8_add_killed_anywhere_is_completed_by_the_next() {
    if !require_kernel() {
        return;
    }
    let world = World::new("kill-add");
    let calls = at_each_call(
        &world.victim("ADD"),
        || world.reset(),
        |number, side| {
            world.host.succeed("ADD", UID);
            world.assert_attached(number, side);
            world.host.succeed("CHECK", UID);
            world.host.succeed("DEL", UID);
            world.assert_gone(number, side);
        },
    );
    eprintln!("ADD: killed at each of {calls} system calls");
}

#[test]
fn e9_add_killed_anywhere_is_undone_by_del() {
    if !require_kernel() {
        return;
    }
    let world = World::new("kill-undo");
    at_each_call(
        &world.victim("ADD"),
        || world.reset(),
        |number, side| {
            world.host.succeed("DEL", UID);
            world.assert_gone(number, side);
        },
    );
}

#[test]
fn e8_add_killed_anywhere_and_never_called_again_is_swept() {
    if !require_kernel() {
        return;
    }
    let host = Pinned::new("kill-sweep");
    let victim = Victim::new(&program("balancing-cni"), [""; 0])
        .with_environment(variables("ADD", UID))
        .with_input(host.config());
    at_each_call(
        &victim,
        || {
            host.forget();
            assert!(host.pod(UID).path().exists());
        },
        |number, side| {
            host.pod(UID).remove();
            // The agent's look, and the runtime's GC, which forgets records too.
            host.sweep();
            host.collect_garbage();
            let traces = host.traces();
            assert!(traces.is_empty(), "killed at {side:?} of call {number}: {traces:?}");
        },
    );
}

#[test]
fn e8_e9_del_killed_anywhere_is_completed_by_the_next() {
    if !require_kernel() {
        return;
    }
    let world = World::new("kill-del");
    let calls = at_each_call(
        &world.victim("DEL"),
        || {
            world.reset();
            world.host.succeed("ADD", UID);
        },
        |number, side| {
            world.host.succeed("DEL", UID);
            world.assert_gone(number, side);
        },
    );
    eprintln!("DEL: killed at each of {calls} system calls");
}

#[test]
fn e8_a_new_sandbox_after_a_del_that_was_killed_anywhere() {
    if !require_kernel() {
        return;
    }
    let world = World::new("kill-again");
    at_each_call(
        &world.victim("DEL"),
        || {
            world.reset();
            world.host.succeed("ADD", UID);
        },
        |number, side| {
            world.host.succeed("ADD", UID);
            world.assert_attached(number, side);
            world.host.succeed("DEL", UID);
            world.assert_gone(number, side);
        },
    );
}

const LIST: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"bridge\"}\n  ]\n}\n";
/// Stands for the plugin's binary, which takes longer to copy.
const BINARY: &str = "#!/bin/sh\necho '{\"cniVersion\": \"1.0.0\", \"supportedVersions\": [\"0.4.0\", \"1.0.0\", \"1.1.0\"]}'\n";

/// A node's directories.
struct Node {
    files: TempDir,
    mode: &'static str,
}

impl Node {
    fn new(mode: &'static str) -> Self {
        let files = TempDir::new("install");
        let binary = files.write("plugin", BINARY);
        fs::set_permissions(binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { files, mode }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// As before the first installation.
    fn reset(&self) {
        for directory in ["net.d", "bin", "run", "var/lib/cni/results"] {
            fs::remove_dir_all(self.path(directory)).ok();
            fs::create_dir_all(self.path(directory)).unwrap();
        }
        self.files.write("net.d/10-net.conflist", LIST);
    }

    fn arguments(&self, verb: &str) -> Vec<String> {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let flags = [
            ("--host-root", path("")),
            ("--cni-net-dir", path("net.d")),
            ("--cni-bin-dir", path("bin")),
            ("--cni-binary", path("plugin")),
            ("--run-dir", path("run")),
            ("--cri-socket", "off".to_owned()),
            ("--cni-mode", self.mode.to_owned()),
            // Whose DEL needs nothing that is remembered.
            ("--cni-runtime", "containerd".to_owned()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        ["cni".to_owned(), verb.to_owned()].into_iter().chain(flags).collect()
    }

    fn victim(&self, verb: &str) -> Victim {
        Victim::new(&program("balancing-agent"), self.arguments(verb))
    }

    /// The rest of an uninstall, without the pause for calls that have just begun.
    fn uninstall(&self) {
        let settings = Settings {
            host: self.path(""),
            net_dir: self.path("net.d"),
            bin_dir: self.path("bin"),
            binary: self.path("plugin"),
            run_dir: self.path("run"),
            choice: Choice::Auto,
            runtime: Runtime::Containerd,
            runtime_is_awaited: false,
            network: None,
            reads_drop_ins: None,
            entry: "{}".to_owned(),
            place: Place::Last,
            origins: Default::default(),
        };
        let held = settings.uninstall(|| None).unwrap();
        assert!(held.is_empty(), "{held:?}");
    }

    /// A call that was killed while it tried the binary leaves its child for a moment, and with it the lock.
    fn succeed(&self, verb: &str) {
        eventually(|| {
            let output =
                Command::new(program("balancing-agent")).args(self.arguments(verb)).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() || said.contains("is locked"), "{verb}: {said}");
            if output.status.success() { Ok(()) } else { Err(said) }
        });
    }

    /// Names and contents of the files that are there, but for locks.
    fn files(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for directory in ["net.d", "bin", "net.d/net"] {
            let Ok(entries) = fs::read_dir(self.path(directory)) else { continue };
            for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
                let name = format!("{directory}/{}", path.file_name().unwrap().to_str().unwrap());
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
        found.sort();
        found
    }

    /// Checks each file that a runtime would load or run: it is one of those of before or of after, whole. Whoever names
    /// the plugin finds it.
    #[track_caller]
    fn assert_whole(&self, before: &[(String, String)], after: &[(String, String)], point: &str) {
        let files = self.files();
        for file in files.iter().filter(|(name, _)| !is_temporary(name)) {
            assert!(before.contains(file) || after.contains(file), "{point}: {file:?}");
        }
        for (name, _) in before {
            let is_replaced = after.iter().all(|(other, _)| other != name);
            assert!(is_replaced || files.iter().any(|(other, _)| other == name), "{point}: no {name}");
        }
        let names_it =
            |(name, text): &(String, String)| name.starts_with("net.d") && text.contains("balancing-cni");
        let is_named = files.iter().filter(|(name, _)| !is_temporary(name)).any(names_it);
        assert!(!is_named || self.path("bin/balancing-cni").exists(), "{point}: named, but not there");
        // There is a network at every moment.
        let is_network = |(name, text): &&(String, String)| {
            Path::new(name).extension().is_some_and(|end| end == "conflist")
                && serde_json::from_str::<Value>(text)
                    .is_ok_and(|list| list["plugins"][0]["type"] == "bridge")
        };
        assert!(files.iter().find(is_network).is_some(), "{point}: {files:?}");
    }
}

/// Whether no runtime loads a file of this name.
fn is_temporary(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "tmp")
}

fn install(mode: &'static str) {
    let node = Node::new(mode);
    node.reset();
    let before = node.files();
    node.succeed("install");
    let after = node.files();
    assert_ne!(before, after);
    let calls = at_each_call(
        &node.victim("install"),
        || node.reset(),
        |number, side| {
            let point = format!("{mode}, killed at {side:?} of call {number}");
            node.assert_whole(&before, &after, &point);
            node.succeed("install");
            assert_eq!(node.files(), after, "{point}");
        },
    );
    eprintln!("install, {mode}: killed at each of {calls} system calls");
}

/// What a power cut leaves depends on what was on the disk before a name changed: the content of the new file, then the name,
/// then the directory. And the binary is there, also on the disk, before any configuration names it.
fn order(mode: &'static str) {
    let node = Node::new(mode);
    node.reset();
    let trace = node.path("trace");
    let status = Command::new("strace")
        .args(["-qq", "-y", "-e", "trace=fsync,rename,renameat,renameat2,openat,unlink", "-o"])
        .arg(&trace)
        .arg(program("balancing-agent"))
        .args(node.arguments("install"))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    let trace = fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let position = |what: &str, from: usize| {
        lines.iter().skip(from).position(|line| line.contains(what)).map(|at| at + from)
    };
    let mut ends = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("rename")) {
        let mut names = line.split('"').skip(1).step_by(2);
        let (from, to) = (names.next().unwrap(), names.next().unwrap());
        let directory = Path::new(to).parent().unwrap().to_str().unwrap();
        let synced = lines[..at]
            .iter()
            .position(|line| line.starts_with("fsync") && line.contains(&format!("<{from}>")));
        assert!(synced.is_some(), "{mode}: not synced before {line}");
        let recorded =
            position(&format!("<{directory}>) = 0"), at).filter(|at| lines[*at].starts_with("fsync"));
        ends.push((
            to.to_owned(),
            recorded.unwrap_or_else(|| panic!("{mode}: no sync of {directory} after {line}")),
        ));
    }
    let (binary, configuration) = (&ends[0], &ends[1]);
    assert!(binary.0.ends_with("bin/balancing-cni"), "{ends:?}");
    assert!(configuration.0.contains("/net.d/"), "{ends:?}");
    assert!(
        binary.1 < first_write(&lines, &node.path("net.d")),
        "{mode}: the configuration is written before the binary is on the disk"
    );
}

/// The first line that opens a file of a directory to write it.
fn first_write(lines: &[&str], directory: &Path) -> usize {
    let inside = format!("\"{}/", directory.display());
    lines.iter().position(|line| line.contains(&inside) && line.contains("O_WRONLY")).unwrap()
}

#[test]
fn g13_g38_what_a_name_leads_to_is_on_the_disk_before_it() {
    for mode in ["inline", "copy", "drop-in"] {
        order(mode);
    }
}

#[test]
fn g12_install_inline_killed_anywhere() {
    install("inline");
}

#[test]
fn g12_install_copy_killed_anywhere() {
    install("copy");
}

#[test]
fn g12_install_drop_in_killed_anywhere() {
    install("drop-in");
}

#[test]
fn g12_uninstall_killed_anywhere() {
    let node = Node::new("inline");
    node.reset();
    let before = node.files();
    node.succeed("install");
    let after = node.files();
    at_each_call(
        &node.victim("uninstall"),
        || {
            node.reset();
            node.succeed("install");
        },
        |number, side| {
            let point = format!("uninstall, killed at {side:?} of call {number}");
            node.assert_whole(&after, &before, &point);
            node.uninstall();
            assert_eq!(node.files(), before, "{point}");
        },
    );
}
