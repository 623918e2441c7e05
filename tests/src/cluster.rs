//! A real Kubernetes control plane of a test: etcd, API server and, when wanted, controllers and scheduler.
//!
//! It lives in a network namespace of its own, so that every control plane has the same addresses and ports
//! and two never meet. There are no kubelets: nodes and running pods are data
//! ([`ControlPlane::add_node`], [`ControlPlane::run_pod`]). Agents of [`crate::Node::in_cluster`] reach the
//! API server over a link between both namespaces. It knows nothing of Balancing but where its manifests are.
//!
//! ```no_run
//! use balancing_tests::*;
//!
//! let plane = ControlPlane::builder().controllers(&["endpointslice-controller"]).start();
//! plane.install_crds();
//! plane.add_node("n1", &[("zone", "a")], "192.0.2.1");
//! let kubeconfig = plane.service_account_kubeconfig("balancing", "agent");
//!
//! let mut node = Node::in_cluster(&plane, "n1", &kubeconfig, "balancing", &[]);
//! let _server = node.serve("local", &["10.1.0.1:80"]);
//! // The API server chooses the uid of a pod, and the cgroup is named by it: first the pod, then its sandbox.
//! let pod = plane.run_pod(&Object::pod("local", "web", &["10.1.0.1"]));
//! let sandbox = node.sandbox(&pod);
//! plane.client().put(&Object::local_redirect("redirect", "169.254.0.1", 80, "web")).unwrap();
//! node.start();
//! node.wait_backends("redirect", 1);
//! let mut client = sandbox.client();
//! ```

mod client;
mod etcd;
mod kubectl;
mod pki;
mod servers;
mod traffic;
mod workload;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use self::pki::Pki;
pub use self::{
    client::{ApiClient, Refusal},
    kubectl::Kubectl,
};
use crate::{Cgroup, NetNs, Object, Place, Process, TempDir, must::Must, node::eventually_within};

/// Address of the API server, in the namespace of the control plane and of every node.
const ADDRESS: &str = "172.30.0.1";
const PORT: u16 = 6443;
/// How long the control plane may take to start on a busy machine; it takes 3 seconds on a quiet one.
const START: Duration = Duration::from_secs(60);
/// The controller without which pods get no ServiceAccount.
const SERVICE_ACCOUNTS: &str = "serviceaccount-controller";

/// A running control plane. Its processes end with the value; those of a killed test are swept with its cgroup
/// by the next test.
pub struct ControlPlane {
    // Clients end before their servers, and those before the place they are in.
    client: ApiClient,
    /// Controller manager and scheduler.
    others: Vec<Process>,
    api_server: Option<Process>,
    etcd: Option<Process>,
    place: Place,
    netns: NetNs,
    _cgroup: Cgroup,
    pki: Pki,
    files: TempDir,
    service_accounts: bool,
    /// Addresses of the nodes.
    nodes: Mutex<BTreeMap<String, String>>,
    /// How many network namespaces were joined.
    links: AtomicU8,
}

/// What a control plane consists of.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneBuilder {
    controllers: Vec<String>,
    scheduler: bool,
}

impl ControlPlaneBuilder {
    /// Runs a controller manager with these controllers, by the names that `kube-controller-manager --help`
    /// lists. Without `serviceaccount-controller` pods need no ServiceAccount.
    #[must_use]
    pub fn controllers(mut self, names: &[&str]) -> Self {
        self.controllers.extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// Runs a scheduler.
    #[must_use]
    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// Starts it and waits until the API server is ready and pods can be created.
    ///
    /// # Panics
    /// When a program is missing or does not get ready within a minute.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> ControlPlane {
        let (netns, cgroup, files) = (NetNs::new(), Cgroup::new("cluster"), TempDir::new("cluster"));
        netns.add_address(&format!("{ADDRESS}/32"), "lo");
        let place = Place::default().in_netns(&netns).in_cgroup(&cgroup);
        let pki = Pki::create(&files);
        let mut plane = ControlPlane {
            client: ApiClient::new(&netns, &pki.admin),
            api_server: None,
            others: Vec::new(),
            etcd: None,
            place,
            netns,
            _cgroup: cgroup,
            pki,
            files,
            service_accounts: self.controllers.iter().any(|name| name == SERVICE_ACCOUNTS),
            nodes: Mutex::default(),
            links: AtomicU8::new(0),
        };
        plane.start_store();
        plane.start_api_server();
        plane.start_others(&self);
        plane
    }
}

impl ControlPlane {
    /// Starts a control plane of etcd and API server only.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Chooses what else to start.
    #[must_use]
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder::default()
    }

    /// The administrator.
    #[must_use]
    pub fn client(&self) -> &ApiClient {
        &self.client
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.pki.admin
    }

    /// A user by kubeconfig.
    #[must_use]
    pub fn client_of(&self, kubeconfig: &Path) -> ApiClient {
        ApiClient::new(&self.netns, kubeconfig)
    }

    /// The network namespace of all servers.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Joins a network namespace, so that its processes reach the API server.
    pub fn join(&self, other: &NetNs) {
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        let device = format!("node{number}");
        self.netns.join(&device, other, "cluster0");
        self.netns.add_address(&format!("172.31.{number}.1/30"), &device);
        other.add_address(&format!("172.31.{number}.2/30"), "cluster0");
        self.route(other);
    }

    /// Makes the way from a joined network namespace to the API server, which is lost when its device was down.
    pub fn route(&self, other: &NetNs) {
        other.ip(&["route", "replace", &format!("{ADDRESS}/32"), "dev", "cluster0"]);
    }

    /// Kills the API server as a crash would. On SIGTERM it would take seconds to end.
    pub fn stop_api_server(&mut self) {
        self.api_server.take().must("stop the API server: it is not running").kill();
    }

    /// Starts the API server on the data that it had, at the same address, and waits until it is ready.
    #[track_caller]
    pub fn start_api_server(&mut self) {
        assert!(self.api_server.is_none(), "the API server is running: stop it first");
        let certificates = self.files.path();
        let mut command = servers::api_server(&self.place, &self.pki, certificates, self.service_accounts);
        let process = self.api_server.insert(Process::start("kube-apiserver", &mut command).brief());
        let client = &self.client;
        let default_namespace = Object::named("v1", "Namespace", "", "default");
        process
            .wait_ready(START, || client.text("/readyz").is_ok() && client.get(&default_namespace).is_ok());
    }

    /// Stops and starts the API server. Watches break. Whether one can be resumed is a matter of luck: not
    /// when anything at all was written after the last it had heard of.
    #[track_caller]
    pub fn restart_api_server(&mut self) {
        self.stop_api_server();
        self.start_api_server();
    }

    /// Restarts the API server such that no watch can be resumed: who tries is told 410 Gone and must list
    /// again.
    ///
    /// An API server knows no changes from before its start, and refuses to resume a watch from a revision
    /// before its first list. No watch can have seen the revision that the store reaches here meanwhile.
    #[track_caller]
    pub fn expire_watches(&mut self) {
        self.stop_api_server();
        self.compact();
        self.start_api_server();
    }

    fn start_others(&mut self, wanted: &ControlPlaneBuilder) {
        if !wanted.controllers.is_empty() {
            let mut command = servers::controller_manager(&self.place, &self.pki, &wanted.controllers);
            self.others.push(Process::start("kube-controller-manager", &mut command).brief());
        }
        if wanted.scheduler {
            let mut command = servers::scheduler(&self.place, &self.pki);
            self.others.push(Process::start("kube-scheduler", &mut command).brief());
        }
        if self.service_accounts {
            let account = Object::named("v1", "ServiceAccount", "default", "default");
            eventually_within(START, || self.client.get(&account).map_err(|refusal| refusal.to_string()));
        }
    }
}

fn server_url() -> String {
    format!("https://{ADDRESS}:{PORT}")
}
