//! A host whose programs are pinned and whose agent does not run: what the CNI plugin works with.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use balancing_dataplane::{
    ABI,
    cgroup::CgroupDir,
    layout::{Hook, Layout},
    links::{self, LinkState, Locks},
    records::Records,
    sys,
};
use serde_json::{Value, json};

use crate::{Bpffs, Cgroup, TempDir, must::Must, program};

/// Files of the run directory that say nothing about pods, however many there are.
const OF_THE_NODE: [&str; 4] = ["cni.log", "cni.log.1", "plugin.json", "plugin.json.tmp"];

/// A host. Its programs let every call pass; the directories are its own and go with it.
#[derive(Debug)]
pub struct Pinned {
    bpffs: Bpffs,
    cgroup: Cgroup,
    run: TempDir,
}

impl Pinned {
    /// A host with a program for each hook.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let host = Self::without_programs(topic);
        let layout = host.layout();
        fs::create_dir_all(layout.programs()).must("make the directory of the programs");
        fs::create_dir_all(layout.pods()).must("make the directory of the pods");
        for hook in Hook::ALL {
            let spec = sys::ProgramSpec {
                prog_type: sys::PROG_TYPE_CGROUP_SOCK_ADDR,
                attach_type: hook.attach_type(),
                name: hook.name(),
                instructions: &sys::RETURN_ONE,
            };
            let program = sys::prog_load(&spec, None).must("load a program");
            sys::obj_pin(program.as_fd(), &layout.program(hook)).must("pin a program");
        }
        host
    }

    /// A host on which no agent has run yet.
    #[must_use]
    pub fn without_programs(topic: &str) -> Self {
        Self { bpffs: Bpffs::new(topic), cgroup: Cgroup::new(topic), run: TempDir::new(topic) }
    }

    /// The plugin's entry in a list of plugins.
    #[must_use]
    pub fn entry(&self) -> Value {
        json!({
            "type": "balancing-cni", "failurePolicy": "fail", "runDir": self.run.path(),
            "bpffs": self.bpffs.path(), "cgroupRoot": self.cgroup.path(),
            "capabilities": {"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true},
        })
    }

    /// What stdin of a call holds, in a network called `net`.
    #[must_use]
    pub fn config(&self) -> String {
        let mut config = self.entry();
        config["cniVersion"] = "1.1.0".into();
        config["name"] = "net".into();
        config["prevResult"] = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.5/24"}]});
        config.to_string()
    }

    /// A call of the plugin for a pod, whose container is called like it.
    pub fn call(&self, command: &str, uid: &str) -> Output {
        self.call_with(command, uid, &self.config())
    }

    /// The same with something else on stdin.
    pub fn call_with(&self, command: &str, uid: &str, config: &str) -> Output {
        let mut child = Command::new(program("balancing-cni"))
            .env_clear()
            .envs(variables(command, uid))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .must("run balancing-cni");
        let mut stdin = child.stdin.take().must("write to balancing-cni");
        stdin.write_all(config.as_bytes()).must("write to balancing-cni");
        drop(stdin);
        child.wait_with_output().must("wait for balancing-cni")
    }

    /// A call that must succeed.
    #[track_caller]
    pub fn succeed(&self, command: &str, uid: &str) {
        self.succeed_with(command, uid, &self.config());
    }

    /// The same with something else on stdin.
    #[track_caller]
    pub fn succeed_with(&self, command: &str, uid: &str, config: &str) {
        let output = self.call_with(command, uid, config);
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{command} {uid}: {}", String::from_utf8_lossy(&said));
    }

    /// GC of a runtime that has no container any more.
    #[track_caller]
    pub fn collect_garbage(&self) {
        let config = self.config().replacen('{', "{\"cni.dev/valid-attachments\":null,", 1);
        self.succeed_with("GC", "none", &config);
    }

    /// Takes the run directory back to what it is after a boot.
    pub fn forget(&self) {
        fs::remove_dir_all(self.run.path()).must("empty the run directory");
        fs::create_dir(self.run.path()).must("make the run directory");
    }

    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.run.path()
    }

    /// The cgroup of a pod, where a kubelet would put it.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Cgroup {
        self.cgroup.child(&cgroup_path(uid)[1..])
    }

    /// What is pinned for a pod.
    #[must_use]
    pub fn links(&self, uid: &str) -> BTreeMap<Hook, LinkState> {
        links::inspect(&self.layout().pods().join(uid)).must("examine the links of a pod")
    }

    /// Whether a pod has one link for each hook, to its own cgroup, and each program runs once there.
    #[must_use]
    pub fn is_attached(&self, uid: &str, cgroup: &Cgroup) -> bool {
        let links = self.links(uid);
        let count = |hook: &Hook| running(cgroup, *hook);
        Hook::ALL
            .iter()
            .all(|hook| links.get(hook).is_some_and(|link| link.cgroup_id == cgroup.id()) && count(hook) == 1)
    }

    /// Everything that the plugin has left of its calls: pins, records, locks, temporary files and directories.
    #[must_use]
    pub fn traces(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.layout().pods(), &mut found);
        collect(self.run.path(), &mut found);
        let is_directory_of_all =
            |path: &PathBuf| path.parent() == Some(self.run.path()) && path.is_dir() || self.is_network(path);
        let of_node = OF_THE_NODE.map(|name| self.run.path().join(name));
        found.retain(|path| !is_directory_of_all(path) && !of_node.contains(path));
        found
    }

    /// The directory of a network's records stays when it is empty.
    fn is_network(&self, path: &Path) -> bool {
        path.is_dir() && path.parent() == Some(Records::new(self.run.path()).dir())
    }

    /// What the agent does now and then, an hour later: links of cgroups that are gone, unfinished directories and what killed calls
    /// have left of records go.
    pub fn sweep(&self) {
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        for path in self.traces().iter().filter(|path| path.extension().is_some_and(|end| end == "tmp")) {
            let file = File::options().write(true).open(path).must("open what a killed call has left");
            file.set_modified(long_ago).must("make a file older");
        }
        let locks = Locks::new(self.run.path());
        links::sweep(&self.layout(), self.cgroup.path(), &locks).must("sweep the links");
        _ = Records::new(self.run.path()).sweep(Duration::from_secs(60));
    }

    fn layout(&self) -> Layout {
        Layout::new(self.bpffs.path(), ABI)
    }
}

/// The capability `cgroupPath` of a pod.
#[must_use]
pub fn cgroup_path(uid: &str) -> String {
    format!("/kubepods/burstable/pod{uid}")
}

/// How many programs run on a hook because they are attached to this very cgroup.
///
/// # Panics
/// When the kernel does not say.
#[must_use]
pub fn running(cgroup: &Cgroup, hook: Hook) -> usize {
    let directory = CgroupDir::open(cgroup.path()).must("open a cgroup");
    links::attached(&directory, hook).must("ask what is attached").len()
}

/// The variables of a call for a pod, whose container is called like it.
#[must_use]
pub fn variables(command: &str, uid: &str) -> Vec<(&'static str, String)> {
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}"
    );
    vec![
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", uid.to_owned()),
        ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ("CNI_ARGS", args),
    ]
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        }
        found.push(path);
    }
}
