//! The JSON of the commands: a contract. Fields may be added, never renamed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use balancing_abi::model::FrontendKey;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::{
    objects::PolicyRef,
    plan::{Entry, Reason, Verdict},
    source::SourceStatus,
};

/// Kind and name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerView {
    /// Kubernetes kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// Address, port and protocol of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
}

/// One row of `policies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Kubernetes kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Service id.
    pub service_id: u32,
    /// Condition `Accepted`.
    pub accepted: bool,
    /// Condition `ResolvedRefs`.
    pub resolved_refs: bool,
    /// Condition `Conflicted`.
    pub conflicted: bool,
    /// The winners.
    pub conflicts_with: Vec<OwnerView>,
    /// Condition `Programmed`.
    pub programmed: bool,
    /// Reason.
    pub reason: String,
    /// One line for people.
    pub message: String,
    /// Frontends that it decides.
    pub frontends: Vec<KeyView>,
    /// Number of backends.
    pub backends: usize,
}

/// One row of `frontends`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Service id of the owner.
    pub service_id: u32,
    /// The policy; `null` when the kernel's table does not name it.
    pub owner: Option<OwnerView>,
    /// 0 = decides first, 1 = decides where the first stands aside.
    pub layer: u8,
    /// Backends.
    pub backends: Vec<BackendView>,
    /// Counters.
    pub counters: CountersView,
}

/// A backend of a frontend, or one row of `backends`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// Id.
    pub id: u32,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Share of new connections.
    pub weight: u32,
    /// `namespace/name` of the pod; `null` without an agent.
    pub pod: Option<String>,
    /// Node of the pod; `null` without an agent.
    pub node: Option<String>,
}

/// Counters of a frontend since it was programmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountersView {
    /// Sent to a backend.
    pub redirected: u64,
    /// Not redirected: QoS limit.
    pub qos_overflow: u64,
    /// Not redirected: no backend.
    pub no_backend: u64,
    /// Not redirected: exempt client.
    pub skipped: u64,
}

/// One row of `pods`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodView {
    /// Namespace, if known.
    pub namespace: Option<String>,
    /// Name, if known.
    pub name: Option<String>,
    /// UID that the node knows it by: for a static pod not that of its mirror object.
    pub uid: String,
    /// Path of the cgroup, if known.
    pub cgroup: Option<String>,
    /// Hooks that are attached.
    pub hooks: Vec<String>,
    /// Why the hooks could not be looked at.
    #[serde(default)]
    pub problem: Option<String>,
    /// As in [`PodName::state`]; `null` without an agent, and for a pod that it does not know.
    #[serde(default)]
    pub state: Option<String>,
    /// Why it is so.
    #[serde(default)]
    pub why: Option<String>,
}

/// What the agent says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Name of the node.
    pub node: String,
    /// `node` or `external`.
    pub role: String,
    /// Everything wanted is programmed and attached.
    pub ready: bool,
    /// Version of the agent.
    pub version: String,
    /// The source.
    pub source: SourceView,
    /// What is wrong now, in the agent's words.
    pub problems: Vec<String>,
    /// Where `/healthz` and `/readyz` are served; `null` = they are not.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Where `/metrics` is served; `null` = it is not.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// What found no room, by table; since the start of the agent.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    /// The CNI plugin; `null` = the agent does not install it.
    #[serde(default)]
    pub plugin: Option<PluginView>,
}

/// What the agent says about the CNI plugin that it installs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginView {
    /// Pods that start now get it.
    pub in_force: bool,
    /// File of the network configuration that counts.
    pub file: Option<String>,
    /// Types of the plugins that pods get, in their order.
    pub chain: Vec<String>,
    /// Why they do not get ours, or not for long.
    pub problem: Option<String>,
    /// Files that were written or removed since the agent started.
    pub writes: u64,
    /// Times that somebody else began to take it out again and again.
    pub fights: u64,
}

/// State of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceView {
    /// What it is.
    pub description: String,
    /// Its complete list has been delivered.
    pub synced: bool,
    /// What cannot be read.
    pub problems: Vec<String>,
    /// Seconds since the API server last said anything; `null` for a directory.
    #[serde(default)]
    pub last_contact: Option<u64>,
}

/// Pod and node behind a backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Address of the backend.
    pub address: IpAddr,
    /// Port of the backend.
    pub port: u16,
    /// Service id of the policy.
    #[serde(default)]
    pub service_id: u32,
    /// Its share of new connections: the kernel keeps none for a backend that is alone.
    #[serde(default)]
    pub weight: u32,
    /// `namespace/name`.
    pub pod: Option<String>,
    /// Node.
    pub node: Option<String>,
}

/// State of a pod whose sockets are the host's.
pub const POD_OF_HOST: &str = "host";

/// Who a local pod is, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// UID that the node knows it by.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Path of its cgroup, if it was found.
    pub cgroup: Option<String>,
    /// `hooked`; `host`: its sockets are the host's; `leftAlone`: on purpose; `waiting`: it has no cgroup yet, or another
    /// process is at work with it; `failing`. Empty where pods are not looked at.
    #[serde(default)]
    pub state: String,
    /// Why it is so.
    #[serde(default)]
    pub why: Option<String>,
}

impl From<&FrontendKey> for KeyView {
    fn from(key: &FrontendKey) -> Self {
        Self { address: key.address, port: key.port, protocol: key.protocol.to_string() }
    }
}

impl From<&PolicyRef> for OwnerView {
    fn from(policy: &PolicyRef) -> Self {
        Self { kind: policy.kind.to_string(), name: policy.name.clone() }
    }
}

impl From<&SourceStatus> for SourceView {
    fn from(status: &SourceStatus) -> Self {
        let problems = status.problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
        Self { description: status.description.clone(), synced: status.synced, problems, last_contact: None }
    }
}

impl PolicyView {
    /// The row of a policy; `failures` are the frontends that could not be programmed.
    #[must_use]
    pub fn new(policy: &PolicyRef, verdict: &Verdict, failures: &BTreeMap<FrontendKey, Failure>) -> Self {
        let failed: Vec<&Failure> = verdict.frontends.keys().filter_map(|key| failures.get(key)).collect();
        let mut message = verdict.message.clone();
        if let Some(first) = failed.first() {
            let all = verdict.frontends.len();
            message = format!(
                "{} of {all} frontends are not programmed: {}; wanted: {message}",
                failed.len(),
                first.message
            );
        }
        Self {
            kind: policy.kind.to_string(),
            name: policy.name.clone(),
            service_id: verdict.service_id,
            accepted: verdict.accepted,
            resolved_refs: verdict.resolved_refs,
            conflicted: !verdict.conflicts_with.is_empty(),
            conflicts_with: verdict.conflicts_with.iter().map(OwnerView::from).collect(),
            programmed: verdict.accepted && verdict.redirects && failed.is_empty(),
            reason: reason_of(verdict, failures).to_owned(),
            message,
            frontends: verdict.frontends.keys().map(KeyView::from).collect(),
            backends: verdict.backends,
        }
    }
}

/// The reason that a policy has on this node, where some frontends could not be programmed. What is not in force is not
/// called applied.
#[must_use]
pub fn reason_of(verdict: &Verdict, failures: &BTreeMap<FrontendKey, Failure>) -> &'static str {
    if verdict.reason != Reason::Applied {
        return verdict.reason.as_str();
    }
    match verdict.frontends.keys().find_map(|key| failures.get(key)) {
        Some(first) => first.reason.as_str(),
        None if !verdict.redirects => "NoBackends",
        None => verdict.reason.as_str(),
    }
}

impl PolicyView {
    /// The row of a policy of which only the kernel knows: the agent has decided nothing yet.
    #[must_use]
    pub fn in_kernel(policy: &PolicyRef, service_id: u32, frontends: Vec<KeyView>, backends: usize) -> Self {
        Self {
            kind: policy.kind.to_string(),
            name: policy.name.clone(),
            service_id,
            accepted: true,
            resolved_refs: true,
            conflicted: false,
            conflicts_with: Vec::new(),
            programmed: !frontends.is_empty(),
            reason: "NotSynced".to_owned(),
            message: "the agent has not read all objects from its source yet: this is what the kernel has from before; \
                      `balancingctl status` says why"
                .to_owned(),
            frontends,
            backends,
        }
    }
}

/// Pods and nodes behind the backends of an entry.
pub fn origins(entry: &Entry) -> impl Iterator<Item = Origin> + '_ {
    let backends = entry.layers.iter().flat_map(|layer| layer.backends.iter().map(|b| (layer.service_id, b)));
    backends.map(|(service_id, backend)| Origin {
        address: backend.target.address,
        port: backend.target.port,
        service_id,
        weight: backend.target.weight,
        pod: backend.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        node: backend.node.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        failure::FailureReason,
        resolve::fixtures::{Tcp, key, local},
    };

    fn verdict(frontends: usize) -> Verdict {
        let key = key("10.0.0.1", 80, Tcp);
        Verdict {
            service_id: 1,
            generation: 1,
            accepted: true,
            takes_part: true,
            resolved_refs: true,
            left_alone: Vec::new(),
            conflicts_with: BTreeSet::new(),
            reason: Reason::Applied,
            message: "1 frontend, 1 backend".to_owned(),
            frontends: (0..frontends).map(|_| (key, 1)).collect(),
            backends: frontends,
            redirects: frontends > 0,
        }
    }

    #[test]
    fn only_what_is_in_force_is_called_applied() {
        let row = |frontends, failures: &BTreeMap<_, _>| {
            let view = PolicyView::new(&local("l"), &verdict(frontends), failures);
            (view.programmed, view.reason, view.message)
        };
        assert_eq!(row(1, &BTreeMap::new()).1, "Applied");
        let (programmed, reason, _) = row(0, &BTreeMap::new());
        assert_eq!((programmed, reason.as_str()), (false, "NoBackends"));
        let refuses = Verdict { redirects: false, ..verdict(1) };
        let view = PolicyView::new(&local("l"), &refuses, &BTreeMap::new());
        assert_eq!((view.programmed, view.reason.as_str()), (false, "NoBackends"), "it refuses connections");
        let failure = Failure { reason: FailureReason::TableFull, message: "table t is full".to_owned() };
        let (programmed, reason, message) = row(1, &BTreeMap::from([(key("10.0.0.1", 80, Tcp), failure)]));
        assert_eq!((programmed, reason.as_str()), (false, "TableFull"));
        assert_eq!(
            message,
            "1 of 1 frontends are not programmed: table t is full; wanted: 1 frontend, 1 backend"
        );
    }
}
