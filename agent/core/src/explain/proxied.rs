//! Beyond a node's proxy address: the pods behind it, and what the proxy of this node makes of a port.

use std::{collections::BTreeSet, net::SocketAddr};

use balancing_abi::model::FrontendKey;

use super::{Explanation, name};
use crate::{
    objects::{BackendSpec, PolicyRef, RedirectMode},
    plan::Backend,
    resolve::{Engine, Family, Forward},
};

/// The pods behind a backend that is a node's proxy address, as far as they are known here; none behind any other.
pub(super) fn behind(engine: &Engine, policy: &PolicyRef, backend: &Backend) -> Vec<String> {
    let spec = engine.snapshot().policy(policy).and_then(|policy| policy.spec.as_ref().ok());
    let is_proxied = spec
        .is_some_and(|spec| matches!(spec.backend, BackendSpec::Pods { mode: RedirectMode::NodeProxy, .. }));
    if !is_proxied {
        return Vec::new();
    }
    let at = (backend.target.address, backend.target.port);
    let targets = engine.resolution(policy).into_iter().flat_map(|resolution| &resolution.proxy_targets);
    let known = targets.filter(|target| (target.address, target.port) == at).map(|target| &target.pod);
    let slices = engine.snapshot().endpoints(policy);
    let listed = slices.flat_map(|slice| &slice.list);
    let listed =
        listed.filter(|endpoint| endpoint.ready && endpoint.ip == at.0).map(|endpoint| &endpoint.pod);
    let pods: BTreeSet<_> = known.chain(listed).collect();
    pods.into_iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect()
}

impl Explanation {
    /// The address is one of this node's proxy: adds what becomes of a connection that comes through the tunnel.
    pub fn forwarded(&mut self, key: &FrontendKey, forward: Option<&Forward>) {
        let port = format!("{}/{}", key.port, key.protocol);
        let told = match forward {
            None => format!(
                "no policy declares proxy port {port}, so what comes through the tunnel to it is dropped"
            ),
            Some(forward) => {
                let pods = forward.backends(Family::of(key.address));
                let pods: Vec<_> =
                    pods.iter().map(|pod| SocketAddr::new(pod.address, pod.port).to_string()).collect();
                let policy = name(&forward.policy);
                match pods.as_slice() {
                    [] => {
                        format!("{policy} declares proxy port {port} and no pod of this node is ready for it")
                    }
                    pods => format!("what comes through the tunnel goes by {policy} to {}", pods.join(", ")),
                }
            }
        };
        self.decision = format!("{}; {told}", self.decision);
    }
}
