//! A replica of the controller as a process under test.

use std::{path::Path, process::ExitStatus};

use crate::{Agent, ControlPlane, NetNs, Place, http_get, metric, node::eventually};

/// `balancing-agent controller` on a host of its own that reaches the API server. It is killed on drop.
#[derive(Debug)]
pub struct Controller {
    // Dropped in this order.
    agent: Agent,
    host: NetNs,
}

impl Controller {
    const HTTP: &str = "127.0.0.1:5812";
    const METRICS: &str = "127.0.0.1:5813";
    /// Where the metrics are served: to other hosts, too, as in a cluster.
    const ALL_METRICS: &str = ":5813";

    /// A replica that has not started yet; its name in the election begins with `name`.
    #[must_use]
    pub fn new(plane: &ControlPlane, name: &str, kubeconfig: &Path, namespace: &str) -> Self {
        let host = NetNs::new();
        plane.join(&host);
        let agent = Agent::new(&Place::default().in_netns(&host))
            .args(["controller", "--name", name, "--namespace", namespace])
            .args(["--http", Self::HTTP, "--metrics", Self::ALL_METRICS])
            .args(["--kubeconfig".as_ref(), kubeconfig.as_os_str()]);
        Self { agent, host }
    }

    /// Starts it and waits until it is ready, elected or not.
    ///
    /// # Panics
    /// When it is running, ends, or takes longer than 2 minutes.
    #[track_caller]
    pub fn start(&mut self) {
        let host = &self.host;
        self.agent.start(|| ask(host, Self::HTTP, "/readyz").is_some_and(|(status, _)| status == 200));
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.agent.kill();
    }

    /// Asks it to end with SIGTERM and waits for its status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.agent.terminate()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.agent.pid()
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.agent.log()
    }

    /// The host that it runs on.
    #[must_use]
    pub fn host(&self) -> &NetNs {
        &self.host
    }

    /// A row of its metrics, by name and labels.
    #[must_use]
    pub fn metric(&self, row: &str) -> Option<f64> {
        let (_, text) = ask(&self.host, Self::METRICS, "/metrics")?;
        metric(&text, row)
    }

    /// Waits until it is the leader.
    #[track_caller]
    pub fn wait_elected(&self) {
        eventually(|| match self.metric("balancing_leader") {
            Some(1.0) => Ok(()),
            other => Err(format!("balancing_leader is {other:?}")),
        });
    }
}

fn ask(host: &NetNs, server: &str, path: &str) -> Option<(u16, String)> {
    let address = server.parse().ok()?;
    host.run(|| http_get(address, path))
}
