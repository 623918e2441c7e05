//! flannel on a node of a test: the overlay of the cluster beside which the fabric has to work.

use std::{fs, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    ControlPlane, NetNs, Node, Object, Place, Process, TempDir, must::Must, programs::flannel_program,
};

/// How long it may take until its network is there.
const READY: Duration = Duration::from_secs(60);

/// flannel's daemon with the VXLAN backend. The daemon is killed on drop; what it made stays with the network namespace.
#[derive(Debug)]
pub struct Flannel {
    place: Place,
    name: String,
    kubeconfig: String,
    files: TempDir,
    daemon: Option<Process>,
}

impl Flannel {
    /// Its device, and its rules.
    pub const STATE: (&str, &str) = ("flannel.1", "ip flannel-ipv4");

    /// Gives a node of the cluster its network of pods, a part of `10.244.0.0/16`, and starts flannel there. `backend` adds to
    /// what is set of the VXLAN backend, whose VNI is 1 and whose port is 8472 by default.
    #[must_use]
    #[track_caller]
    pub fn start(plane: &ControlPlane, node: &Node, name: &str, pods: &str, backend: &Value) -> Self {
        let files = TempDir::new("flannel");
        let mut config =
            json!({"Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan"}});
        for (key, value) in backend.as_object().into_iter().flatten() {
            config["Backend"][key] = value.clone();
        }
        files.write("net-conf.json", config.to_string());
        // flannel takes for granted that a kubelet has annotated the Node.
        let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        let patch = json!({
            "metadata": {"annotations": annotations}, "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        });
        plane.client().patch(&Object::named("v1", "Node", "", name), "", patch).must("give a node its pods");
        let kubeconfig = plane.kubeconfig().display().to_string();
        let mut flannel = Self {
            place: Place::default().in_netns(node.host()),
            name: name.to_owned(),
            kubeconfig,
            files,
            daemon: None,
        };
        flannel.restart();
        flannel
    }

    /// Kills the daemon if it runs, starts it, and waits until its device is configured.
    #[track_caller]
    pub fn restart(&mut self) {
        self.daemon = None;
        let subnet = self.files.path().join("subnet.env");
        fs::remove_file(&subnet).ok();
        let mut command = self.place.command(flannel_program());
        command
            .env("NODE_NAME", &self.name)
            .args(["--kube-subnet-mgr", "--kubeconfig-file", &self.kubeconfig, "--iface", "under0"])
            .arg("--net-config-path")
            .arg(self.files.path().join("net-conf.json"))
            .arg("--subnet-file")
            .arg(&subnet);
        let daemon = self.daemon.insert(Process::start("flannel", &mut command).brief());
        daemon.wait_ready(READY, || subnet.exists());
    }
}

/// What the kernel has of a VXLAN device (itself, forwarding entries, neighbours, routes) and of an nftables table, without
/// counters.
#[must_use]
pub fn state(host: &NetNs, (device, table): (&str, &str)) -> String {
    let table: Vec<_> = table.split(' ').collect();
    let commands: [&[&str]; 5] = [
        &["ip", "-d", "-o", "link", "show", "dev", device],
        &["bridge", "fdb", "show", "dev", device],
        &["ip", "neighbour", "show", "nud", "permanent", "dev", device],
        &["ip", "route", "show", "dev", device],
        &[&["nft", "--stateless", "list", "table"], &table[..]].concat(),
    ];
    let told = commands.map(|command| {
        let output =
            host.run(|| Command::new(command[0]).args(&command[1..]).output()).must("read the kernel");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {error}", command.join(" "));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<_> = text.lines().map(str::trim_end).collect();
        // The order of entries is that of a hash table.
        if command[0] != "nft" {
            lines.sort_unstable();
        }
        lines.join("\n")
    });
    told.join("\n\n")
}
