//! A cluster of a test: control plane, CRDs, RBAC and nodes with agents.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use balancing_tests::*;

/// Namespace of the agents.
pub(crate) const NAMESPACE: &str = "balancing-system";
/// Version of the policies.
pub(crate) const VERSION: &str = "balancing.elf.io/v1beta1";

/// A control plane that knows the policies and everybody's rights, and a controller.
pub(crate) struct World {
    // Dropped in this order.
    pub(crate) controller: RefCell<Controller>,
    pub(crate) plane: ControlPlane,
}

/// A condition of a policy: status, reason, message.
pub(crate) type Condition = (String, String, String);

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

impl World {
    /// etcd and API server.
    pub(crate) fn start() -> Self {
        Self::with(ControlPlane::start())
    }

    pub(crate) fn with(plane: ControlPlane) -> Self {
        plane.install_crds();
        Self::without_crds(plane)
    }

    /// The CRDs are not installed yet.
    pub(crate) fn without_crds(plane: ControlPlane) -> Self {
        for file in ["node.yaml", "controller.yaml", "external.yaml", "external-host.yaml", "admission.yaml"]
        {
            plane.apply_file(&repository().join("install/rbac").join(file));
        }
        let mut controller = controller(&plane, "c1");
        controller.start();
        Self { controller: RefCell::new(controller), plane }
    }

    /// Credentials of a node's agent, bound to its Node.
    pub(crate) fn kubeconfig(&self, node: &str) -> PathBuf {
        self.plane.node_kubeconfig(NAMESPACE, "balancing-agent", node)
    }

    /// A node whose agent has not started yet.
    pub(crate) fn node(&self, name: &str, labels: &[(&str, &str)], ip: &str) -> Node {
        self.flagged_node(name, labels, ip, &[])
    }

    /// A node whose agent gets more flags, and has not started yet.
    pub(crate) fn flagged_node(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        ip: &str,
        flags: &[String],
    ) -> Node {
        self.plane.add_node(name, labels, ip);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Node::in_cluster(&self.plane, name, &self.kubeconfig(name), NAMESPACE, &flags)
    }

    /// Node `n1` with a running agent.
    pub(crate) fn started_node(&self) -> Node {
        let mut node = self.node("n1", &[], "192.0.2.1");
        node.start();
        node
    }

    /// Makes an object what is given, as `kubectl apply --server-side` does.
    #[track_caller]
    pub(crate) fn put(&self, object: &Object) -> Object {
        // One that was read before may have been changed since.
        let mut object = object.clone();
        object.take("/metadata/resourceVersion");
        self.plane.client().put(&object).unwrap_or_else(|refusal| panic!("put {}: {refusal}", object.name()))
    }

    #[track_caller]
    pub(crate) fn delete(&self, object: &Object) {
        self.plane.client().delete(object).unwrap_or_else(|refusal| panic!("{}: {refusal}", object.name()));
    }

    /// A policy as stored.
    #[track_caller]
    pub(crate) fn policy(&self, kind: &str, name: &str) -> Object {
        self.plane.client().get(&Object::named(VERSION, kind, "", name)).unwrap()
    }

    /// Waits until a condition of a policy has that status and reason, and its message holds the text.
    #[track_caller]
    pub(crate) fn wait_condition(&self, policy: &Object, condition: &str, wanted: (&str, &str), text: &str) {
        eventually(|| {
            let found = condition_of(&self.plane.client().get(policy).map_err(|e| e.to_string())?, condition);
            match &found {
                Some((status, reason, message))
                    if (status.as_str(), reason.as_str()) == wanted && message.contains(text) =>
                {
                    Ok(())
                }
                other => Err(format!("{} of {}: {other:?}, not {wanted:?}", condition, policy.name())),
            }
        });
    }
}

/// A replica of the controller with exactly its rights, not started yet.
pub(crate) fn controller(plane: &ControlPlane, name: &str) -> Controller {
    let kubeconfig = plane.service_account_kubeconfig(NAMESPACE, "balancing-controller");
    Controller::new(plane, name, &kubeconfig, NAMESPACE)
}

/// A condition of an object's status.
pub(crate) fn condition_of(object: &Object, condition: &str) -> Option<Condition> {
    let conditions = object.at("/status/conditions").as_array()?;
    let found = conditions.iter().find(|c| c["type"] == condition)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// Waits until a client's connections to an address are answered by a server.
#[track_caller]
pub(crate) fn answered_by(client: &mut Client, at: &str, wanted: &str) {
    eventually(|| match client.ask_tcp(address(at)) {
        Ok(name) if name == wanted => Ok(()),
        other => Err(format!("{at} is answered by {other:?}, not {wanted}")),
    });
}

/// The number of a field.
pub(crate) fn number(object: &Object, pointer: &str) -> Option<i64> {
    object.at(pointer).as_i64()
}

/// A Service of our own making, whose ClusterIP the API server takes as given.
pub(crate) fn service(name: &str, ip: &str, ports: &[(&str, u16)]) -> Object {
    Object::service(name, &[ip], ports).with("/spec/clusterIP", ip)
}

/// A field as text.
pub(crate) fn text<'a>(object: &'a Object, pointer: &str) -> &'a str {
    object.at(pointer).as_str().unwrap_or_default()
}
