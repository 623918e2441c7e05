//! The control plane, the controller and the two nodes whose agents are measured.

use std::path::Path;

use balancing_tests::{ControlPlane, Controller, Node, Object};

/// Namespace of the agents.
pub(crate) const NAMESPACE: &str = "balancing-system";
/// `apiVersion` of EndpointSlices.
const SLICES: &str = "discovery.k8s.io/v1";
/// Places in [`World::nodes`].
pub(crate) const NODES: [usize; 2] = [0, 1];
/// Place of the controller behind the nodes, where everything is counted by place.
pub(crate) const CONTROLLER: usize = 2;

/// A control plane, a controller and two nodes.
pub(crate) struct World {
    // They end before the API server.
    pub(crate) nodes: [Node; 2],
    pub(crate) controller: Controller,
    pub(crate) plane: ControlPlane,
}

impl World {
    /// A cluster with nothing in it but the nodes; everything runs.
    pub(crate) fn start() -> Self {
        let plane = ControlPlane::start();
        plane.install_crds();
        let rbac = Path::new(env!("CARGO_MANIFEST_DIR")).join("../install/rbac");
        for file in ["node.yaml", "controller.yaml", "admission.yaml"] {
            plane.apply_file(&rbac.join(file));
        }
        let account = plane.service_account_kubeconfig(NAMESPACE, "balancing-controller");
        let mut controller = Controller::new(&plane, "bench", &account, NAMESPACE);
        controller.start();
        controller.wait_elected();
        let nodes = [1, 2].map(|number| {
            let name = format!("n{number}");
            plane.add_node(&name, &[], &format!("192.0.2.{number}"));
            let kubeconfig = plane.node_kubeconfig(NAMESPACE, "balancing-agent", &name);
            Node::in_cluster(&plane, &name, &kubeconfig, NAMESPACE, &["--log-level", "warn"])
        });
        let mut world = Self { nodes, controller, plane };
        world.nodes.iter_mut().for_each(Node::start);
        world
    }

    /// The process at a place.
    pub(crate) fn pid(&mut self, place: usize) -> u32 {
        match self.nodes.get_mut(place) {
            Some(node) => node.agent().pid(),
            None => self.controller.pid(),
        }
    }

    /// A metric of a node's agent that has no labels, or with its labels as part of the name.
    pub(crate) fn metric(&self, node: usize, name: &str) -> Option<f64> {
        let (_, text) = self.nodes[node].http(Node::METRICS, "/metrics")?;
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        rest.split(' ').next()?.parse().ok()
    }

    /// The EndpointSlices that the controller made.
    pub(crate) fn slices(&self) -> Vec<Object> {
        let slices = self.plane.client().list(SLICES, "EndpointSlice").expect("slices are listed");
        slices.into_iter().filter(|slice| slice.namespace() == NAMESPACE).collect()
    }

    /// Removes those; no controller may run meanwhile.
    pub(crate) fn forget_slices(&self) {
        for slice in self.slices() {
            let slice = Object::named(SLICES, "EndpointSlice", NAMESPACE, slice.name());
            self.plane.client().delete(&slice).expect("the slice is there");
        }
    }
}
