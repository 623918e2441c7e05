//! The control plane and the two nodes whose agents are measured.

use std::path::{Path, PathBuf};

use balancing_tests::{ControlPlane, Node, Object, eventually};

/// Namespace of the agents.
pub(crate) const NAMESPACE: &str = "balancing-system";
/// `apiVersion` of EndpointSlices.
const SLICES: &str = "discovery.k8s.io/v1";
/// Place of the elected agent in [`World::nodes`].
pub(crate) const ELECTED: usize = 0;
/// Place of the agent that is not elected.
pub(crate) const OTHER: usize = 1;

/// A control plane and two nodes.
pub(crate) struct World {
    // Agents end before the API server.
    pub(crate) nodes: [Node; 2],
    pub(crate) plane: ControlPlane,
}

impl World {
    /// A cluster with nothing in it but the nodes; the agent of the first one is elected.
    pub(crate) fn start() -> Self {
        let plane = ControlPlane::start();
        plane.install_crds();
        plane.apply_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../install/rbac/node.yaml"));
        let kubeconfig: PathBuf = plane.service_account_kubeconfig(NAMESPACE, "balancing-agent");
        let nodes = [1, 2].map(|number| {
            let name = format!("n{number}");
            plane.add_node(&name, &[], &format!("192.0.2.{number}"));
            Node::in_cluster(&plane, &name, &kubeconfig, NAMESPACE, &["--log-level", "warn"])
        });
        let mut world = Self { nodes, plane };
        world.nodes[ELECTED].start();
        world.wait_elected();
        world.nodes[OTHER].start();
        world
    }

    /// Waits until the first node's agent is elected. It stays so when it is restarted: the Lease has its name.
    pub(crate) fn wait_elected(&self) {
        eventually(|| match self.metric(ELECTED, "balancing_leader") {
            Some(1.0) => Ok(()),
            other => Err(format!("balancing_leader is {other:?}")),
        });
    }

    /// A metric of a node's agent that has no labels, or with its labels as part of the name.
    pub(crate) fn metric(&self, node: usize, name: &str) -> Option<f64> {
        let (_, text) = self.nodes[node].http(Node::METRICS, "/metrics")?;
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        rest.split(' ').next()?.parse().ok()
    }

    /// The EndpointSlices that the agents made.
    pub(crate) fn slices(&self) -> Vec<Object> {
        let slices = self.plane.client().list(SLICES, "EndpointSlice").expect("slices are listed");
        slices.into_iter().filter(|slice| slice.namespace() == NAMESPACE).collect()
    }

    /// Removes those; no agent may run meanwhile.
    pub(crate) fn forget_slices(&self) {
        for slice in self.slices() {
            let slice = Object::named(SLICES, "EndpointSlice", NAMESPACE, slice.name());
            self.plane.client().delete(&slice).expect("the slice is there");
        }
    }
}
