//! A node with one redirected frontend: the world of the suites about who is redirected.

use crate::{EchoServer, Node, Object};

/// What is dialled.
pub const FRONTEND: &str = "10.96.0.1:80";

/// A node with `original` at the frontend and `local` for the pod behind the policy.
#[derive(Debug)]
pub struct Redirected {
    /// The node, whose agent has not started yet.
    pub node: Node,
    /// The pod behind the policy. It has no cgroup unless a test makes one.
    pub backend: Object,
    _servers: [EchoServer; 2],
}

impl Redirected {
    /// A node with [`policy`].
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self::with(topic, &[], &policy())
    }

    /// A node with another policy for [`FRONTEND`], whose agent gets more arguments.
    #[must_use]
    pub fn with(topic: &str, arguments: &[&str], policy: &Object) -> Self {
        let node = Node::with(topic, arguments);
        let servers = [node.serve("original", &[FRONTEND]), node.serve("local", &["10.1.0.1:80"])];
        let backend = Object::pod("local", "local", &["10.1.0.1"]);
        node.apply(&backend);
        node.apply(policy);
        Self { node, backend, _servers: servers }
    }
}

/// Redirects the frontend to the local pod.
#[must_use]
pub fn policy() -> Object {
    Object::local_redirect("policy", "10.96.0.1", 80, "local")
}

/// A pod that is a client only.
#[must_use]
pub fn client_pod(name: &str) -> Object {
    Object::pod(name, "client", &["10.200.0.2"])
}
