//! A node of a cluster in miniature: the agent at work on a directory of objects, in a network namespace,
//! a cgroup, a bpffs directory and a run directory of its own.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    time::{Duration, Instant},
};

use balancing_core::{
    control::Request,
    view::{AgentView, PolicyView},
};
use balancing_ctl::socket::ask;
use balancing_dataplane::{
    layout::Layout,
    links,
    tables::{LayerView, Reader},
};
use serde_json::Value;

use crate::{
    Agent, Bpffs, Cgroup, Client, ControlPlane, EchoServer, NetNs, Place, Process, TempDir, http_get,
    must::Must, objects::Object, programs::program,
};

/// How long a change may take to be in force: far above what it takes on any machine, below the 30 seconds after which
/// the agent looks at everything anew, so that what waits for that is found out.
const DEADLINE: Duration = Duration::from_secs(25);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// A node, `n1` unless it is one of a cluster. The network namespace is the host's; addresses of pods, services and other nodes are
/// addresses of its loopback device, so that servers for all of them can run there.
#[derive(Debug)]
pub struct Node {
    agent: Agent,
    host: NetNs,
    cgroup: Cgroup,
    bpffs: Bpffs,
    run: TempDir,
    state: TempDir,
    objects: TempDir,
    addresses: RefCell<BTreeSet<IpAddr>>,
    sandboxes: Cell<u8>,
}

/// A pod's network namespace and cgroup.
#[derive(Debug)]
pub struct Sandbox {
    /// Its network namespace. Everything it does not know goes to the node.
    pub netns: NetNs,
    /// Its cgroup, where a kubelet would put it.
    pub cgroup: Cgroup,
}

impl Node {
    /// Address of the liveness and readiness endpoints of an agent in a cluster, on its node.
    pub const HTTP: &str = "127.0.0.1:5810";
    /// Address of the metrics of an agent in a cluster, on its node.
    pub const METRICS: &str = "127.0.0.1:5811";
    /// Where they are served: to other hosts, too, as in a cluster.
    const ALL_METRICS: &str = ":5811";

    /// A node whose agent has not started yet.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self::with(topic, &[])
    }

    /// A node whose agent gets more arguments. `--role`, `--scope` and the like; places are given already.
    #[must_use]
    pub fn with(topic: &str, arguments: &[&str]) -> Self {
        Self::named(topic, "n1", arguments)
    }

    /// One of several nodes.
    #[must_use]
    pub fn named(topic: &str, name: &str, arguments: &[&str]) -> Self {
        let objects = TempDir::new("objects");
        let source = format!("dir:{}", objects.path().display());
        Self::build(topic, objects, &["--source", &source, "--node-name", name], arguments)
    }

    /// A node of a cluster: its agent works with what the API server has, as the user of a kubeconfig, and
    /// keeps its own objects in a namespace. Its HTTP servers are at [`Node::HTTP`] and [`Node::METRICS`] of the node.
    /// Objects go to the control plane; [`Node::apply`] and the like do nothing here.
    #[must_use]
    pub fn in_cluster(
        plane: &ControlPlane,
        name: &str,
        kubeconfig: &Path,
        namespace: &str,
        arguments: &[&str],
    ) -> Self {
        let kubeconfig = kubeconfig.to_str().must("name a kubeconfig");
        let source = ["--source", "kube", "--kubeconfig", kubeconfig, "--node-name", name];
        let servers = ["--namespace", namespace, "--http", Self::HTTP, "--metrics", Self::ALL_METRICS];
        let node = Self::build(name, TempDir::new("objects"), &[&source[..], &servers].concat(), arguments);
        plane.join(&node.host);
        node
    }

    fn build(topic: &str, objects: TempDir, source: &[&str], arguments: &[&str]) -> Self {
        let (host, cgroup, bpffs) = (NetNs::new(), Cgroup::new(topic), Bpffs::new(topic));
        let (run, state) = (TempDir::new("run"), TempDir::new("state"));
        let keeps_state = source.contains(&"kube") && arguments.contains(&"external");
        let state_dir = ["--state-dir".as_ref(), state.path().as_os_str()];
        let agent = Agent::new(&Place::default().in_netns(&host))
            .args(source.iter().copied())
            .args(["--cgroup-root".as_ref(), cgroup.path().as_os_str()])
            .args(["--bpffs".as_ref(), bpffs.path().as_os_str()])
            .args(["--run-dir".as_ref(), run.path().as_os_str()])
            .args(arguments.iter().copied())
            .args(state_dir.into_iter().filter(|_| keeps_state));
        let (addresses, sandboxes) = (RefCell::default(), Cell::new(0));
        Self { agent, host, cgroup, bpffs, run, state, objects, addresses, sandboxes }
    }

    /// Gives the agent an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.agent = self.agent.env(name, value);
        self
    }

    /// The agent, to kill, restart or replace it.
    pub fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// Starts the agent and waits until everything wanted is in force.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_until(|view| view.ready);
    }

    /// Starts the agent and waits for something it says about itself.
    #[track_caller]
    pub fn start_until(&mut self, ready: impl Fn(&AgentView) -> bool) {
        let socket = self.socket();
        self.agent.start(|| ask::<AgentView>(&socket, &Request::Agent).is_ok_and(|view| ready(&view)));
    }

    /// Runs the agent until it ends by itself.
    pub fn run_to_end(&self) -> Output {
        self.agent.command().output().must("run balancing-agent")
    }

    /// Puts an object into force: a file in the agent's directory, replaced by rename.
    pub fn apply(&self, object: &Object) {
        self.apply_text(&format!("{}.json", object.name()), &object.json());
    }

    /// Puts a file into the agent's directory.
    pub fn apply_text(&self, file: &str, text: &str) {
        self.objects.write(file, text);
    }

    /// Takes an object out of the agent's directory.
    pub fn delete(&self, object: &Object) {
        let path = self.objects.path().join(format!("{}.json", object.name()));
        fs::remove_file(&path).must(format_args!("remove {}", path.display()));
    }

    /// The agent's directory.
    #[must_use]
    pub fn objects(&self) -> &Path {
        self.objects.path()
    }

    /// The agent's run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.run.path()
    }

    /// The directory of the agent's stored state.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// The agent's bpffs directory.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// The cgroup that is the root to the agent.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The network namespace that is the host's to the agent.
    #[must_use]
    pub fn host(&self) -> &NetNs {
        &self.host
    }

    /// A place of host processes.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::default().in_netns(&self.host).in_cgroup(&self.cgroup)
    }

    /// A host process.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::start(&self.place())
    }

    /// A server at addresses of the node; they are added where they are missing.
    #[must_use]
    pub fn serve(&self, name: &str, addresses: &[&str]) -> EchoServer {
        let sockets: Vec<SocketAddr> = addresses.iter().map(|text| address(text)).collect();
        let mut known = self.addresses.borrow_mut();
        let new: Vec<IpAddr> = sockets.iter().map(SocketAddr::ip).filter(|ip| known.insert(*ip)).collect();
        self.host.add_loopback(&new);
        EchoServer::start(&self.host, name, &sockets)
    }

    /// The namespace and the cgroup of a pod.
    #[must_use]
    pub fn sandbox(&self, pod: &Object) -> Sandbox {
        let number = self.sandboxes.get();
        self.sandboxes.set(number + 1);
        let (netns, device) = (NetNs::new(), format!("veth{number}"));
        self.host.join(&device, &netns, "eth0");
        self.host.add_address(&format!("10.200.{number}.1/30"), &device);
        netns.add_address(&format!("10.200.{number}.2/30"), "eth0");
        netns.ip(&["route", "add", "default", "via", &format!("10.200.{number}.1")]);
        Sandbox { netns, cgroup: self.pod_cgroup(pod) }
    }

    /// The namespace and the cgroup of a pod that has its own address on an overlay: the node alone knows the way to it, and
    /// forwards.
    #[must_use]
    pub fn overlay_pod(&self, pod: &Object, addresses: &[&str]) -> Sandbox {
        let number = self.sandboxes.get();
        self.sandboxes.set(number + 1);
        let (netns, device) = (NetNs::new(), format!("veth{number}"));
        self.host.sysctl("ipv4/ip_forward", "1");
        self.host.sysctl("ipv6/conf/all/forwarding", "1");
        self.host.join(&device, &netns, "eth0");
        for (gateway, length, option) in [("169.254.1.1", 32, "-4"), ("fe80::1", 128, "-6")] {
            self.host.add_address(&format!("{gateway}/{length}"), &device);
            for address in addresses.iter().filter(|address| address.contains(':') == gateway.contains(':')) {
                netns.add_address(&format!("{address}/{length}"), "eth0");
                netns.ip(&[option, "route", "replace", "default", "via", gateway, "dev", "eth0", "onlink"]);
                self.host.ip(&[option, "route", "replace", &format!("{address}/{length}"), "dev", &device]);
            }
        }
        Sandbox { netns, cgroup: self.pod_cgroup(pod) }
    }

    /// The cgroup of a pod, where a kubelet would put it.
    #[must_use]
    pub fn pod_cgroup(&self, pod: &Object) -> Cgroup {
        self.cgroup.child(&format!("kubepods/burstable/pod{}", pod.node_uid()))
    }

    /// `balancingctl` with arguments, as it ends.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_command(arguments).output().must("run balancingctl")
    }

    fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("balancingctl"));
        command.args(arguments).arg("--bpffs").arg(self.bpffs.path()).arg("--run-dir").arg(self.run.path());
        command
    }

    /// `balancingctl` with arguments, at work.
    #[must_use]
    pub fn ctl_process(&self, arguments: &[&str]) -> Process {
        Process::start("balancingctl", &mut self.ctl_command(arguments)).brief()
    }

    /// What `balancingctl` prints as JSON.
    #[track_caller]
    pub fn ctl_json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[arguments, &["-o", "json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "balancingctl {}: {error}", arguments.join(" "));
        serde_json::from_slice(&output.stdout).must("read the output of balancingctl")
    }

    /// `balancing-agent cleanup`.
    pub fn cleanup(&self) -> (ExitStatus, String) {
        self.cleanup_with(self.state.path())
    }

    fn cleanup_with(&self, state: &Path) -> (ExitStatus, String) {
        let mut command = Place::default().in_netns(&self.host).command(program("balancing-agent"));
        command.arg("cleanup").arg("--state-dir").arg(state);
        command.arg("--bpffs").arg(self.bpffs.path()).arg("--run-dir").arg(self.run.path());
        let output = command.output().must("run balancing-agent cleanup");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Ends the agent and takes from the kernel what a restart of the machine takes; the disk stays.
    pub fn reboot(&mut self) {
        self.agent.kill();
        let (status, error) = self.cleanup_with(Path::new("off"));
        assert!(status.success(), "{error}");
    }

    /// What the agent says about itself, or why it does not.
    ///
    /// # Errors
    /// No agent.
    pub fn view(&self) -> Result<AgentView, String> {
        ask(&self.socket(), &Request::Agent).map_err(|error| error.to_string())
    }

    /// Waits for something that the agent says about itself.
    #[track_caller]
    pub fn wait_view(&self, mut wanted: impl FnMut(&AgentView) -> bool) -> AgentView {
        eventually(|| match self.view() {
            Ok(view) if wanted(&view) => Ok(view),
            other => Err(format!("{other:#?}")),
        })
    }

    /// Status and body of an HTTP endpoint of the node, such as `/readyz` of [`Node::HTTP`].
    #[must_use]
    pub fn http(&self, server: &str, path: &str) -> Option<(u16, String)> {
        self.host.run(|| http_get(address(server), path))
    }

    /// All policies in the agent's words.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyView> {
        ask(&self.socket(), &Request::Policies).must("ask for the policies")
    }

    /// Waits until a policy is known and as wanted.
    #[track_caller]
    pub fn wait_policy(&self, policy: &str, mut wanted: impl FnMut(&PolicyView) -> bool) -> PolicyView {
        eventually(|| {
            let known = self.policies();
            let found = known.iter().find(|view| view.name == policy);
            found.filter(|view| wanted(view)).cloned().ok_or(format!("{found:#?}"))
        })
    }

    /// Waits until a policy has that many backends in force.
    #[track_caller]
    pub fn wait_backends(&self, policy: &str, count: usize) -> PolicyView {
        self.wait_policy(policy, |view| view.backends == count && view.accepted)
    }

    /// What the kernel has: every layer of every frontend of the newest ABI.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerView> {
        self.reader().layers().must("read the tables")
    }

    /// A reader of the newest ABI's tables.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let layouts = links::layouts(self.bpffs.path()).must("list the ABIs");
        let layout = layouts.iter().find(|layout| layout.maps().is_dir()).must("find tables");
        Reader::open(layout).must("open the tables")
    }

    /// The paths of one ABI.
    #[must_use]
    pub fn layout(&self, abi: u32) -> Layout {
        Layout::new(self.bpffs.path(), abi)
    }

    fn socket(&self) -> PathBuf {
        self.run.path().join("agent.sock")
    }
}

impl Sandbox {
    /// The pod's place.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::default().in_netns(&self.netns).in_cgroup(&self.cgroup)
    }

    /// A process of the pod.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::start(&self.place())
    }
}

/// Parses `ADDRESS:PORT`.
#[must_use]
pub fn address(text: &str) -> SocketAddr {
    text.parse().must(format_args!("parse {text}"))
}

/// Returns the first success of a probe.
///
/// # Panics
/// At the caller's line with the last failure, when there is none within 25 seconds.
#[track_caller]
pub fn eventually<T>(probe: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(DEADLINE, probe)
}

/// As [`eventually`], with another deadline.
#[track_caller]
pub fn eventually_within<T>(deadline: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(found) => return found,
            Err(last) => assert!(started.elapsed() < deadline, "waited {deadline:?} in vain: {last}"),
        }
        std::thread::sleep(PAUSE);
    }
}
