//! kubectl and Helm against a control plane: what users type, and what they read back. A call takes about 0.1 s.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::ControlPlane;
use crate::{
    must::Must,
    programs::{control_plane_program, helm_program},
};

/// What kubectl left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubectl {
    /// Whether it succeeded.
    pub ok: bool,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl ControlPlane {
    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Kubectl {
        self.kubectl_with(arguments, "")
    }

    /// `kubectl apply` of manifests.
    ///
    /// # Panics
    /// When the API server refuses one.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        self.kubectl_with(&["apply", "-f", "-"], yaml).expect_ok("apply", yaml);
    }

    /// `kubectl apply` of manifests of which one must be refused: the complaint.
    #[track_caller]
    pub fn apply_err(&self, yaml: &str) -> String {
        let refused = self.kubectl_with(&["apply", "-f", "-"], yaml);
        assert!(!refused.ok, "the API server takes what it must refuse: {}\n{yaml}", refused.stdout);
        refused.stderr
    }

    /// `kubectl apply` of a file or of all manifests in a directory.
    #[track_caller]
    pub fn apply_file(&self, path: &Path) {
        let name = path.to_str().must("name the manifests");
        self.kubectl(&["apply", "-f", name]).expect_ok("apply", name);
    }

    /// `kubectl delete` with arguments such as `["service", "name"]`; returns when the objects are gone.
    #[track_caller]
    pub fn delete(&self, arguments: &[&str]) {
        self.kubectl(&[&["delete"], arguments].concat()).expect_ok("delete", &arguments.join(" "));
    }

    /// An object as JSON; the namespace of cluster-scoped objects is ignored.
    #[track_caller]
    pub fn get_json(&self, kind: &str, name: &str, namespace: &str) -> Value {
        let found = self.kubectl(&["get", kind, name, "--namespace", namespace, "-o", "json"]);
        found.expect_ok("get", name);
        serde_json::from_str(&found.stdout).must("read kubectl's JSON")
    }

    /// `kubectl patch --subresource status` with a JSON merge patch.
    #[track_caller]
    pub fn patch_status(&self, kind: &str, name: &str, namespace: &str, patch: &Value) {
        let patch = patch.to_string();
        let arguments = ["patch", kind, name, "--namespace", namespace, "--subresource", "status"];
        let how = ["--type", "merge", "--patch", &patch];
        self.kubectl(&[&arguments[..], &how].concat()).expect_ok("patch the status of", name);
    }

    /// Runs kubectl with a standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Kubectl {
        let mut command = Command::new(control_plane_program("kubectl"));
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            // What kubectl remembers about the kinds of one control plane is wrong for the next.
            .env("KUBECACHEDIR", self.files.path().join("kubectl"))
            .env("HOME", self.files.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.finish(&mut command, input)
    }

    /// Runs lines of a shell as the administrator, in a directory, with kubectl among its programs.
    pub fn shell(&self, script: &str, directory: &Path) -> Kubectl {
        let kubectl = control_plane_program("kubectl");
        let programs = kubectl.parent().must("find the directory of kubectl").display();
        let path = std::env::var("PATH").must("read PATH");
        let mut command = Command::new("sh");
        command
            .args(["-euc", script])
            .current_dir(directory)
            .env("PATH", format!("{programs}:{path}"))
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.files.path().join("kubectl"))
            .env("HOME", self.files.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.finish(&mut command, "")
    }

    /// Runs Helm as the administrator, in a namespace.
    pub fn helm(&self, namespace: &str, arguments: &[&str]) -> Kubectl {
        let mut command = Command::new(helm_program());
        command
            .args(arguments)
            .args(["--namespace", namespace])
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .env("HELM_CACHE_HOME", self.files.path().join("helm"))
            .env("HELM_CONFIG_HOME", self.files.path().join("helm"))
            .env("HELM_DATA_HOME", self.files.path().join("helm"))
            .env("HOME", self.files.path())
            // The API server is on this machine, whatever proxy leads out of it.
            .env("NO_PROXY", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.finish(&mut command, "")
    }

    fn finish(&self, command: &mut Command, input: &str) -> Kubectl {
        let mut child = self.netns.run(|| command.spawn()).must("run kubectl");
        // It may have ended without reading.
        child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().must("wait for kubectl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Kubectl { ok: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Kubectl {
    #[track_caller]
    fn expect_ok(&self, action: &str, what: &str) {
        assert!(self.ok, "kubectl cannot {action} {what}: {}", self.stderr);
    }
}
