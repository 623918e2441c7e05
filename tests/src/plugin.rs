//! The CNI plugin as a runtime calls it.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{NetNs, Node, Object, must::Must, programs::program};

/// The plugin with the configuration of a node: it knows the run directory, and from there what the agent has told.
#[derive(Clone, Debug)]
pub struct Plugin {
    config: Value,
}

impl Plugin {
    /// The plugin on a node, with `failurePolicy: ignore`.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        Self {
            config: json!({
                "cniVersion": "1.1.0", "name": "cluster", "type": "balancing-cni", "runDir": node.run_dir(),
                "prevResult": {"cniVersion": "1.1.0", "interfaces": [], "ips": []},
            }),
        }
    }

    /// Sets a key of the configuration.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    /// Calls it for the sandbox `container` of a pod, as it ends.
    pub fn call(&self, command: &str, pod: &Object, container: &str, netns: Option<&NetNs>) -> Output {
        let none = PathBuf::from("/proc/self/ns/net");
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
            pod.namespace(),
            pod.name(),
            pod.node_uid()
        );
        let mut child = Command::new(program("balancing-cni"))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns.map_or(none, NetNs::path))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .must("run balancing-cni");
        let mut stdin = child.stdin.take().must("write to balancing-cni");
        stdin.write_all(self.config.to_string().as_bytes()).must("write to balancing-cni");
        drop(stdin);
        child.wait_with_output().must("wait for balancing-cni")
    }

    /// ADD, which must succeed. Returns what it says on stderr.
    #[track_caller]
    pub fn add(&self, pod: &Object, container: &str, netns: Option<&NetNs>) -> String {
        self.succeed("ADD", pod, container, netns)
    }

    /// DEL, which must succeed. Returns what it says on stderr.
    #[track_caller]
    pub fn del(&self, pod: &Object, container: &str) -> String {
        self.succeed("DEL", pod, container, None)
    }

    #[track_caller]
    fn succeed(&self, command: &str, pod: &Object, container: &str, netns: Option<&NetNs>) -> String {
        let output = self.call(command, pod, container, netns);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}: {}{said}", String::from_utf8_lossy(&output.stdout));
        said
    }
}
