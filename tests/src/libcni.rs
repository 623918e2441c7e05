//! A chain of CNI plugins as a container runtime calls it: the real libcni of several generations, and cnitool.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{NetNs, TempDir, must::Must, pinned::cgroup_path, program, tool};

/// Generations of libcni: containerd 1.7, containerd 2.1 and CRI-O 1.33, the newest.
pub const GENERATIONS: [&str; 3] = ["1.1.2", "1.3.0", "1.3.1"];

/// A plugin that writes what it was given as `prevResult` to the file `to`, and hands it on.
const RECORDER: &str = r#"#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}' ;;
ADD)
    call=$(cat)
    printf '%s' "$call" | jq -c .prevResult | tee "$(printf '%s' "$call" | jq -r .to)"
    ;;
esac
"#;

/// A node's network, in a network namespace of its own: one list of plugins.
#[derive(Debug)]
pub struct Chain {
    host: NetNs,
    files: TempDir,
    name: String,
}

/// A sandbox as a runtime tells about it.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Its container.
    pub container: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its interface.
    pub ifname: String,
    /// UID of its pod.
    pub uid: String,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It succeeded; ADD has a result.
    Result(Value),
    /// The error object of a plugin, as the runtime got it.
    Error(Value),
    /// An error that is none of CNI.
    Failure(String),
}

impl Answer {
    /// The result of a call that must have succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn expect(self) -> Value {
        match self {
            Self::Result(result) => result,
            other => panic!("the call failed: {other:?}"),
        }
    }
}

impl Attachment {
    /// The sandbox of a pod.
    #[must_use]
    pub fn new(container: &str, netns: &NetNs, uid: &str) -> Self {
        let (container, uid) = (container.to_owned(), uid.to_owned());
        Self { container, netns: netns.path(), ifname: "eth0".to_owned(), uid }
    }

    /// `CNI_ARGS` in the order of containerd's source; it sends them in any.
    #[must_use]
    pub fn args(&self) -> [(&str, &str); 5] {
        [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", "default"),
            ("K8S_POD_NAME", "web-0"),
            ("K8S_POD_INFRA_CONTAINER_ID", &self.container),
            ("K8S_POD_UID", &self.uid),
        ]
    }

    fn capabilities(&self) -> Value {
        json!({
            "cgroupPath": cgroup_path(&self.uid),
            "io.kubernetes.cri.pod-annotations": {"a": "b"},
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000},
        })
    }
}

impl Chain {
    /// A list of plugins of a CNI version.
    #[must_use]
    pub fn new(version: &str, plugins: &[Value]) -> Self {
        let chain = Self::named("net", NetNs::new());
        chain.write(version, plugins);
        chain
    }

    fn named(topic: &str, host: NetNs) -> Self {
        let files = TempDir::new(topic);
        let recorder = files.write("bin/record", RECORDER);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(recorder, mode).must("make a plugin executable");
        let name = files.path().file_name().must("name a network").to_string_lossy().into_owned();
        Self { host, files, name }
    }

    /// Replaces the list.
    pub fn write(&self, version: &str, plugins: &[Value]) {
        let list = json!({"cniVersion": version, "name": self.name, "plugins": plugins});
        self.files.write("net.d/10-net.conflist", list.to_string());
    }

    /// bridge with host-local: what most nodes have.
    #[must_use]
    pub fn bridge(&self) -> Value {
        json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": self.ipam()})
    }

    /// bridge with addresses of both families, which it waits for until the kernel has looked for duplicates.
    #[must_use]
    pub fn dual_stack_bridge(&self) -> Value {
        let mut bridge = self.bridge();
        bridge["ipam"]["ranges"] = json!([[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]]);
        bridge
    }

    /// Addresses from a directory of its own.
    #[must_use]
    pub fn ipam(&self) -> Value {
        json!({
            "type": "host-local", "dataDir": self.files.path().join("ipam"),
            "ranges": [[{"subnet": "10.88.0.0/24"}]],
        })
    }

    /// A plugin that keeps what it was given, see [`Chain::recorded`].
    #[must_use]
    pub fn recorder(&self, name: &str) -> Value {
        json!({"type": "record", "to": self.files.path().join(name)})
    }

    /// The `prevResult` that a recorder was given.
    #[must_use]
    pub fn recorded(&self, name: &str) -> Value {
        let text = fs::read(self.files.path().join(name)).must("read what was recorded");
        serde_json::from_slice(&text).must("parse what was recorded")
    }

    /// The network namespace of the host.
    #[must_use]
    pub fn host(&self) -> &NetNs {
        &self.host
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Forgets what libcni has kept, as a runtime whose disk was lost.
    pub fn lose_cache(&self) {
        fs::remove_dir_all(self.files.path().join("cache")).must("remove the cache");
    }

    /// One call through a generation of libcni.
    pub fn call(&self, generation: &str, verb: &str, attachment: &Attachment) -> Answer {
        self.call_with(generation, verb, attachment, &[])
    }

    /// The same with the attachments that are in use.
    pub fn call_with(
        &self,
        generation: &str,
        verb: &str,
        attachment: &Attachment,
        valid: &[&Attachment],
    ) -> Answer {
        let valid = valid.iter().map(|valid| json!({"containerID": valid.container, "ifname": valid.ifname}));
        let request = json!({
            "verb": verb, "file": self.files.path().join("net.d/10-net.conflist"), "binDirs": self.bin_dirs(),
            "cacheDir": self.files.path().join("cache"), "containerID": attachment.container,
            "netns": attachment.netns, "ifname": attachment.ifname, "args": attachment.args(),
            "capabilityArgs": attachment.capabilities(), "validAttachments": valid.collect::<Value>(),
        });
        let mut command = Command::new(tool(&format!("libcni-{generation}")));
        let output = self.run(&mut command, &request.to_string());
        let answer: Value = serde_json::from_str(&output.1).must(format_args!("parse {output:?}"));
        match (answer.get("error"), answer.get("failure")) {
            (Some(error), _) => Answer::Error(error.clone()),
            (_, Some(failure)) => Answer::Failure(failure.as_str().unwrap_or_default().to_owned()),
            _ => Answer::Result(answer["result"].clone()),
        }
    }

    /// One call of cnitool: whether it succeeded, and what it printed.
    pub fn cnitool(&self, verb: &str, attachment: &Attachment) -> (bool, String) {
        let args: Vec<String> =
            attachment.args().iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut command = Command::new(tool("cnitool"));
        command
            .args([verb, &self.name])
            .arg(&attachment.netns)
            .env("NETCONFPATH", self.files.path().join("net.d"))
            .env("CNI_PATH", std::env::join_paths(self.bin_dirs()).must("name the plugins"))
            .env("CNI_ARGS", args.join(";"))
            .env("CNI_IFNAME", &attachment.ifname)
            .env("CAP_ARGS", attachment.capabilities().to_string());
        self.run(&mut command, "")
    }

    /// Directories of plugins: ours, the reference plugins', the recorder's.
    fn bin_dirs(&self) -> Vec<PathBuf> {
        let of = |path: PathBuf| path.parent().map(Path::to_owned).must("find the directory of a program");
        vec![of(program("balancing-cni")), of(tool("bridge")), self.files.path().join("bin")]
    }

    fn run(&self, command: &mut Command, input: &str) -> (bool, String) {
        let mut child = self
            .host
            .run(|| command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
            .must("run a CNI runtime");
        let mut stdin = child.stdin.take().must("write to a CNI runtime");
        stdin.write_all(input.as_bytes()).must("write to a CNI runtime");
        drop(stdin);
        let output = child.wait_with_output().must("wait for a CNI runtime");
        let said = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        if output.status.success() {
            (true, said(&output.stdout))
        } else {
            (false, said(&output.stderr) + &said(&output.stdout))
        }
    }
}
