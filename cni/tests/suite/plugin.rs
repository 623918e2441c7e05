//! Calls of the built binary.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::fixture::Fixture;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_balancing-cni");

/// A result as a primary plugin prints it, with what a typed copy would lose.
pub(crate) const RESULT: &str = r#"{ "ips": [{"address":"10.1.0.5/24","version":"4","interface":0}],
  "big":18446744073709551617,"z":1.10,"a":"\u00e9" , "interfaces":[{"name":"eth0"}],"dns":{}}"#;

/// One call: variables and configuration. Nothing of the test's own environment reaches the plugin.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) variables: BTreeMap<&'static str, String>,
    pub(crate) config: Value,
    /// Raw JSON of `prevResult`; serde_json would not keep it as it is.
    pub(crate) prev_result: Option<String>,
}

pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A run directory that goes with the test; everything else the plugin is told does not exist.
pub(crate) struct Nowhere(pub(crate) PathBuf);

impl Nowhere {
    pub(crate) fn new(test: &str) -> Self {
        Self(std::env::temp_dir().join(format!("balancing-cni-{test}-{}", std::process::id())))
    }

    pub(crate) fn call(&self, uid: &str) -> Call {
        let config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "balancing-cni",
            "bpffs": "/nonexistent", "cgroupRoot": "/nonexistent", "runDir": self.0, "logLevel": "trace",
        });
        let variables = BTreeMap::from([
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_NETNS", "dummy".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_UID={uid}")),
        ]);
        Call { variables, config, prev_result: Some("{\"ips\":[]}".to_owned()) }
    }
}

impl Drop for Nowhere {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Call {
    /// A pod's call as containerd makes it, with `failurePolicy: fail`.
    pub(crate) fn new(fixture: &Fixture, uid: &str) -> Self {
        let config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "balancing-cni", "failurePolicy": "fail",
            "bpffs": fixture.bpffs, "cgroupRoot": fixture.cgroups, "runDir": fixture.run_dir, "logLevel": "trace",
        });
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID={uid}"
        );
        let variables = BTreeMap::from([
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ("CNI_ARGS", args),
        ]);
        Self { variables, config, prev_result: Some(RESULT.to_owned()) }
    }

    pub(crate) fn set(mut self, variable: &'static str, value: &str) -> Self {
        self.variables.insert(variable, value.to_owned());
        self
    }

    pub(crate) fn unset(mut self, variable: &str) -> Self {
        self.variables.remove(variable);
        self
    }

    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub(crate) fn input(&self) -> String {
        let config = self.config.to_string();
        match &self.prev_result {
            Some(result) => format!("{},\"prevResult\":{result}}}", config.trim_end_matches('}')),
            None => config,
        }
    }

    pub(crate) fn spawn(&self, command: &str) -> Child {
        self.spawn_as(&mut Command::new(BINARY), command)
    }

    /// As [`Self::run`], with another program that becomes the plugin.
    pub(crate) fn run_as(&self, program: &mut Command, command: &str) -> Answer {
        Answer::of(self.spawn_as(program, command))
    }

    fn spawn_as(&self, program: &mut Command, command: &str) -> Child {
        let mut child = program
            .env_clear()
            .env("CNI_COMMAND", command)
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that does not read its input, or was killed, closes the pipe.
        drop(child.stdin.take().unwrap().write_all(self.input().as_bytes()));
        child
    }

    pub(crate) fn run(&self, command: &str) -> Answer {
        Answer::of(self.spawn(command))
    }

    /// Runs a command that has to succeed without a word on stdout.
    pub(crate) fn silent(&self, command: &str) {
        self.succeed(command);
    }

    /// Runs a command that prints no result; what it logs.
    pub(crate) fn succeed(&self, command: &str) -> String {
        let answer = self.run(command);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), ""), "{command}: {}", answer.stderr);
        answer.stderr
    }

    /// Runs ADD, which has to hand on the result.
    pub(crate) fn add(&self) -> Answer {
        let answer = self.run("ADD");
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
        assert_eq!(answer.stdout, format!("{}\n", self.prev_result.as_deref().unwrap()));
        answer
    }

    /// Runs a command that has to fail with this code, and returns message and details.
    pub(crate) fn fail(&self, command: &str, code: u32) -> String {
        let answer = self.run(command);
        answer.error(code)
    }

    /// Records in the run directory.
    pub(crate) fn records(&self) -> Vec<Value> {
        let run_dir = Path::new(self.config["runDir"].as_str().unwrap());
        let listing = balancing_dataplane::records::Records::new(run_dir).read_all().unwrap();
        assert!(listing.broken.is_empty());
        listing.records.iter().map(|record| serde_json::to_value(record).unwrap()).collect()
    }
}

impl Answer {
    pub(crate) fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Self { code: output.status.code(), stdout, stderr }
    }

    /// Checks the error object and returns message and details.
    pub(crate) fn error(&self, code: u32) -> String {
        assert_eq!(self.code, Some(1), "{}", self.stdout);
        let object: Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(object["code"], code, "{}", self.stdout);
        assert!(object["cniVersion"].is_string());
        format!("{}: {}", object["msg"].as_str().unwrap(), object["details"].as_str().unwrap())
    }
}

/// Runs a call as root with the capabilities that are left of a bounding set.
pub(crate) fn with_capabilities(fixture: &Fixture, call: &Call, command: &str, bounds: &str) -> Answer {
    let bounds = format!("--bounding-set={bounds}");
    restricted(fixture, call, command, &[&bounds, "--inh-caps=-all"])
}

/// Runs a call as a user without any right.
pub(crate) fn as_nobody(fixture: &Fixture, call: &Call, command: &str) -> Answer {
    restricted(fixture, call, command, &["--reuid=65534", "--regid=65534", "--clear-groups"])
}

/// The binary is run from the fixture's own directory: that of whoever has built it may be closed to others.
fn restricted(fixture: &Fixture, call: &Call, command: &str, options: &[&str]) -> Answer {
    let binary = fixture.run_dir.join("plugin");
    copy_program(Path::new(BINARY), &binary);
    call.run_as(Command::new("/usr/bin/setpriv").args(options).arg(binary), command)
}

/// Copies what is to be run. Not by this process: another thread's child would hold the new file open, and it could not be run.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("/bin/cp").arg(from).arg(to).status().unwrap().success());
}
