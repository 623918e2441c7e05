//! What a cluster without kubelets lacks: nodes and running pods, as data. Also who an agent is and the
//! kinds it works with.

use std::{
    path::{Path, PathBuf},
    sync::PoisonError,
};

use kube::api::Patch;
use serde_json::{Value, json};

use super::{ControlPlane, client::Refusal};
use crate::{Object, must::Must, node::eventually, objects::uid_of};

impl ControlPlane {
    /// Adds a ready node with one address, and room for pods for a scheduler.
    pub fn add_node(&self, name: &str, labels: &[(&str, &str)], address: &str) -> Object {
        let node = self.ready_node(name, labels, address);
        self.client().create(&node).must(format_args!("add node {name}"))
    }

    /// As [`ControlPlane::add_node`] for many nodes by name and address, several at a time.
    pub fn add_nodes(&self, nodes: impl IntoIterator<Item = (String, String)>) {
        let nodes: Vec<Object> =
            nodes.into_iter().map(|(name, address)| self.ready_node(&name, &[], &address)).collect();
        self.client().create_many(nodes).must("add nodes");
    }

    /// Adds very many ready nodes, by name and address, and running pods, which keep their uids: straight into the
    /// store, in a small part of the time that the API server takes for them. Nothing checks them. The API server is
    /// down meanwhile, and no watch can be resumed: see [`ControlPlane::expire_watches`].
    ///
    /// # Panics
    /// When the API server is not running.
    #[track_caller]
    pub fn store(&mut self, nodes: impl IntoIterator<Item = (String, String)>, pods: Vec<Object>) {
        self.stop_api_server();
        let nodes = nodes.into_iter().map(|(name, address)| {
            // What has no uid does not exist to a patch.
            self.ready_node(&name, &[], &address).with("/metadata/uid", uid_of(&name))
        });
        self.put_into_store(nodes);
        self.put_into_store(pods.into_iter().map(|pod| self.completed(&pod)));
        self.compact();
        self.start_api_server();
    }

    fn ready_node(&self, name: &str, labels: &[(&str, &str)], address: &str) -> Object {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), address.to_owned());
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let room = json!({"cpu": "64", "memory": "64Gi", "pods": "10000"});
        Object::node(name, address)
            .with("/metadata/labels", labels)
            .with("/status/capacity", room.clone())
            .with("/status/allocatable", room)
            .with("/status/conditions", json!([{"type": "Ready", "status": "True"}]))
    }

    /// Creates a pod and makes it run as its kubelet would: with the addresses, phase and conditions of its
    /// `status`; what it lacks there or in its spec is filled in. Returns it as stored, with the uid that
    /// the API server gave it, for [`crate::Node::sandbox`].
    #[track_caller]
    pub fn run_pod(&self, pod: &Object) -> Object {
        self.client().create(&self.completed(pod)).must(format_args!("run pod {}", pod.name()))
    }

    /// As [`ControlPlane::run_pod`] for many pods, several at a time.
    #[track_caller]
    pub fn run_pods(&self, pods: impl IntoIterator<Item = Object>) -> Vec<Object> {
        let pods: Vec<Object> = pods.into_iter().map(|pod| self.completed(&pod)).collect();
        self.client().create_many(pods).must("run pods")
    }

    /// Makes a running pod ready or unready.
    #[track_caller]
    pub fn set_ready(&self, namespace: &str, name: &str, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let pod = Object::named("v1", "Pod", namespace, name);
        self.client()
            .patch_by(&pod, "status", Patch::Strategic(patch))
            .must(format_args!("patch pod {name}"));
    }

    /// Creates a ServiceAccount, and its namespace, where they are missing, and writes a kubeconfig with a
    /// token of it: whoever uses it has the rights that are bound to the ServiceAccount, and no others.
    #[track_caller]
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        self.account_kubeconfig(namespace, name, None)
    }

    /// The same with a token that is bound to a Node, as an agent beside Kubernetes has it.
    #[track_caller]
    pub fn node_kubeconfig(&self, namespace: &str, name: &str, node: &str) -> PathBuf {
        let node = self.client().get(&Object::named("v1", "Node", "", node)).must("find the node");
        self.account_kubeconfig(namespace, name, Some(&node))
    }

    /// Writes a kubeconfig with a client certificate of a user of a group.
    #[track_caller]
    pub fn user_kubeconfig(&self, name: &str, group: &str, namespace: &str) -> PathBuf {
        self.pki.user_kubeconfig(&self.files, name, group, namespace)
    }

    #[track_caller]
    fn account_kubeconfig(&self, namespace: &str, name: &str, bound_to: Option<&Object>) -> PathBuf {
        let account = Object::named("v1", "ServiceAccount", namespace, name);
        for object in [&Object::named("v1", "Namespace", "", namespace), &account] {
            match self.client().create(object) {
                Err(Refusal { code: 409, .. }) => {}
                other => drop(other.must(format_args!("create {}", object.name()))),
            }
        }
        let token = self.client().token(&account, bound_to).must(format_args!("get a token of {name}"));
        let node = bound_to.map_or("", Object::name);
        let file = format!("account-{namespace}-{name}-{node}");
        self.pki.token_kubeconfig(&self.files, &file, namespace, &token)
    }

    /// Installs the CustomResourceDefinitions of this repository, `install/crds`, and waits until their
    /// kinds are served.
    #[track_caller]
    pub fn install_crds(&self) {
        self.install_crds_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../install/crds"));
    }

    /// As [`ControlPlane::install_crds`], of another directory.
    #[track_caller]
    pub fn install_crds_of(&self, directory: &Path) {
        self.apply_file(directory);
        eventually(|| {
            let crds = self.client().list("apiextensions.k8s.io/v1", "CustomResourceDefinition");
            for crd in crds.map_err(|refusal| refusal.to_string())? {
                let conditions = crd.at("/status/conditions").as_array().map_or(&[][..], Vec::as_slice);
                let wanted = |it: &Value| it["type"] == "Established" && it["status"] == "True";
                if !conditions.iter().any(wanted) {
                    return Err(format!("{} is not established: {conditions:?}", crd.name()));
                }
                self.served(&crd)?;
            }
            Ok(())
        });
    }

    /// The API server finds out about a kind a moment after it calls it established.
    fn served(&self, crd: &Object) -> Result<(), String> {
        let of = |field| crd.at(field).as_str().unwrap_or_default();
        let versions = crd.at("/spec/versions").as_array().map_or(&[][..], Vec::as_slice);
        for version in versions.iter().filter(|version| version["served"] == true) {
            let version = format!("{}/{}", of("/spec/group"), version["name"].as_str().unwrap_or_default());
            self.client().list(&version, of("/spec/names/kind")).map_err(|refusal| refusal.to_string())?;
        }
        Ok(())
    }

    /// A pod that the API server takes, with a status that a kubelet could have written.
    fn completed(&self, pod: &Object) -> Object {
        let mut pod = pod.clone();
        if pod.at("/spec/containers").is_null() {
            pod = pod.with("/spec/containers", json!([{"name": "main", "image": "none"}]));
        }
        if pod.at("/status/phase").is_null() {
            pod = pod.with("/status/phase", "Running");
        }
        if pod.at("/status/conditions").is_null() {
            pod = pod.with("/status/conditions", json!([{"type": "Ready", "status": "True"}]));
        }
        let first = pod.at("/status/podIPs/0/ip").clone();
        if pod.at("/status/podIP").is_null() && !first.is_null() {
            pod = pod.with("/status/podIP", first);
        }
        let node = pod.at("/spec/nodeName").as_str().unwrap_or_default();
        let host = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned();
        match host.filter(|_| pod.at("/status/hostIPs").is_null()) {
            Some(host) => {
                pod.with("/status/hostIP", host.as_str()).with("/status/hostIPs", json!([{"ip": host}]))
            }
            None => pod,
        }
    }
}
