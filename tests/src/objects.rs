//! Kubernetes objects for the agent's directory, as short as a test can say them.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Label that the objects made here carry or select.
const LABEL: &str = "app";

/// A Kubernetes object. It is complete and valid until a test changes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(Value);

impl Object {
    /// A ready pod with the label `app`, on node `n1`.
    #[must_use]
    pub fn pod(name: &str, app: &str, addresses: &[&str]) -> Self {
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": uid_of(name), "labels": {LABEL: app}},
            "spec": {"nodeName": "n1"},
            "status": {
                "phase": "Running",
                "podIPs": addresses,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
    }

    /// A node.
    #[must_use]
    pub fn node(name: &str, address: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }))
    }

    /// A Service with TCP ports.
    #[must_use]
    pub fn service(name: &str, addresses: &[&str], ports: &[(&str, u16)]) -> Self {
        let ports: Vec<_> = ports.iter().map(|(name, port)| json!({"name": name, "port": port})).collect();
        Self(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIPs": addresses, "ports": ports},
        }))
    }

    /// A LocalRedirectPolicy from one TCP port of an address to port 80 of pods.
    #[must_use]
    pub fn local_redirect(name: &str, address: &str, port: u16, app: &str) -> Self {
        let backend = json!({"endpointSelector": {"matchLabels": {LABEL: app}}, "toPorts": [{"port": 80}]});
        Self::policy("LocalRedirectPolicy", name, address, port, &backend)
    }

    /// A BalancingPolicy from one TCP port of an address to port 80 of pods.
    #[must_use]
    pub fn balancing(name: &str, address: &str, port: u16, app: &str) -> Self {
        let pods = json!({"endpointSelector": {"matchLabels": {LABEL: app}}, "toPorts": [{"port": 80}]});
        Self::policy("BalancingPolicy", name, address, port, &json!({"serviceEndpoint": pods}))
    }

    /// A BalancingPolicy from one TCP port of an address to port 80 of other addresses.
    #[must_use]
    pub fn balancing_to(name: &str, address: &str, port: u16, backends: &[&str]) -> Self {
        let backend = json!({"addressEndpoint": {"addresses": backends, "toPorts": [{"port": 80}]}});
        Self::policy("BalancingPolicy", name, address, port, &backend)
    }

    fn policy(kind: &str, name: &str, address: &str, port: u16, backend: &Value) -> Self {
        Self(json!({
            "apiVersion": "balancing.elf.io/v1beta1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": {
                "frontend": {"addressMatcher": {"ip": address, "toPorts": [{"port": port}]}},
                "backend": backend,
            },
        }))
    }

    /// Sets a field, named by a JSON pointer, and makes the objects on the way to it.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.0;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            place = match step.parse::<usize>() {
                Ok(index) if place.is_array() => &mut place[index],
                _ => &mut place[step],
            };
        }
        *place = value.into();
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotated(self, name: &str, value: &str) -> Self {
        self.with(&format!("/metadata/annotations/{}", name.replace('/', "~1")), value)
    }

    /// A policy that came into being in this second of the year 2026.
    #[must_use]
    pub fn created(self, second: u8) -> Self {
        self.with("/metadata/creationTimestamp", format!("2026-01-01T00:00:{second:02}Z"))
    }

    /// A pod that is not ready.
    #[must_use]
    pub fn unready(self) -> Self {
        self.with("/status/conditions/0/status", "False")
    }

    /// A frontend that is a Service of the namespace `default`, with all its ports.
    #[must_use]
    pub fn for_service(self, service: &str) -> Self {
        self.with(
            "/spec/frontend",
            json!({"serviceMatcher": {"serviceName": service, "namespace": "default"}}),
        )
    }

    /// An object of any kind, by its names only; without a namespace when that is empty.
    #[must_use]
    pub fn named(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let mut metadata = json!({"name": name});
        if !namespace.is_empty() {
            metadata["namespace"] = namespace.into();
        }
        Self(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}))
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.0["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// Makes a pod the mirror of a static one. Its UID on the node is the sum of its manifest.
    #[must_use]
    pub fn mirror(self) -> Self {
        let sum = self.uid().replace('-', "");
        let mirrored = self.annotated("kubernetes.io/config.mirror", &sum);
        mirrored.annotated("kubernetes.io/config.hash", &sum)
    }

    /// The UID that the node knows a pod by.
    #[must_use]
    pub fn node_uid(&self) -> &str {
        self.0["metadata"]["annotations"]["kubernetes.io/config.hash"].as_str().unwrap_or(self.uid())
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `metadata.namespace`, empty when it has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    /// A field, named by a JSON pointer; null when there is none.
    #[must_use]
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// Takes a field of an object out of it, named by a JSON pointer.
    pub fn take(&mut self, pointer: &str) -> Option<Value> {
        let (parent, field) = pointer.rsplit_once('/')?;
        self.0.pointer_mut(parent)?.as_object_mut()?.remove(field)
    }

    /// The object as a value.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Several objects as one list.
    #[must_use]
    pub fn list(objects: impl IntoIterator<Item = Self>) -> Self {
        let items: Vec<Value> = objects.into_iter().map(|object| object.0).collect();
        Self(json!({"apiVersion": "v1", "kind": "List", "items": items}))
    }

    /// The object as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        self.0.to_string()
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

/// A UID of the usual form that goes with a name.
pub(crate) fn uid_of(name: &str) -> String {
    let mut digits = String::new();
    for byte in name.bytes().chain([0; 6]).take(6) {
        // Writing to a string cannot fail.
        write!(digits, "{byte:02x}").ok();
    }
    let sum = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("{sum:08x}-0000-4000-8000-{digits}")
}
