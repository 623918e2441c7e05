//! What each policy wants, and who gets it: the decisions of the agent, as pure functions.
//!
//! [`resolve_policy`] looks at one policy alone: which frontends it claims and where it would send
//! their connections. [`Engine`] keeps those answers, settles precedence per frontend and reports
//! what changed. Nothing here performs I/O, reads a clock or knows the kernel's tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
};

use balancing_abi::model::{ClientId, Clients, FrontendKey, PolicyKind};

use crate::{
    objects::{
        BackendSpec, FrontendSpec, InvalidSpec, LabelSelector, OnNoBackend, Policy, PolicyRef, PolicySpec,
        Port,
    },
    plan::{Layer, Reason},
    snapshot::{Snapshot, Wait},
};

mod backends;
mod engine;
mod external;
mod forwards;
mod frontends;
mod ids;
mod needs;
mod pairing;
mod proxy_ports;
mod settle;
mod verdict;

pub use backends::{Family, ProxyTarget, reach};
pub use engine::{Delta, Engine};
pub use external::approve;
pub use forwards::{Forward, Forwards, ProxyPort};
pub(crate) use frontends::Frontends;

use backends::Pool;
use needs::waits;
use pairing::Pairing;

/// On which side of the cluster's border the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// On a node of the cluster.
    #[default]
    Node,
    /// On a host outside the cluster: BalancingPolicies with `enableOutCluster` only.
    External,
    /// On behalf of the whole cluster: nothing is programmed, the verdicts become status.
    Cluster,
}

/// How the pods of the whole cluster that a BalancingPolicy selects become known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClusterPods {
    /// All pods are known; the selector is applied here.
    #[default]
    Selected,
    /// The controller applied the selector and lists them in EndpointSlices, with the external addresses that a policy
    /// may claim.
    Listed,
}

/// What the agent was told at its start, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Node or external host.
    pub role: Role,
    /// Name of this node's Node object.
    pub node_name: String,
    /// The global limit of redirections per second and LocalRedirectPolicy; `None` = no limit.
    pub qos_limit: Option<NonZeroU32>,
    /// How pods of other nodes become known.
    pub cluster_pods: ClusterPods,
    /// Which sockets are hooked; only explanations depend on it.
    pub scope: Clients,
}

/// Whether a policy takes part in decisions on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It claims its frontends.
    Active,
    /// Its spec breaks a rule; it claims nothing.
    Invalid,
    /// `spec.enabled` is false; it claims nothing.
    Disabled,
    /// It is not for this node or this role; it claims nothing.
    NotSelected,
    /// What it needs is not known, and never was; it claims nothing.
    Pending,
}

/// What one policy makes of the current objects, before it meets other policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Its service id.
    pub service_id: u32,
    /// `metadata.generation` that was looked at.
    pub generation: i64,
    /// Whether it takes part.
    pub standing: Standing,
    /// The frontends it claims. `None` = it has nothing to decide there, so the next layer does;
    /// the frontend stays claimed, so that a younger policy does not come and go with its pods.
    pub claims: BTreeMap<FrontendKey, Option<Arc<Layer>>>,
    /// In `nodeProxy` mode: what the proxies of the nodes have to forward.
    pub proxy_targets: BTreeSet<ProxyTarget>,
    /// Condition `ResolvedRefs`.
    pub resolved_refs: bool,
    /// Its own reason, [`Reason::Applied`] when it has no complaint of its own.
    pub reason: Reason,
    /// What a user should know, most important first.
    pub notes: Vec<String>,
    /// External addresses of the Service that are not claimed because they belong to somebody else.
    pub left_alone: Vec<String>,
}

/// Resolves one policy on its own: same snapshot, same answer.
#[must_use]
pub fn resolve_policy(
    policy: &Policy,
    service_id: u32,
    snapshot: &Snapshot,
    settings: &Settings,
) -> Resolution {
    let mut resolution = Resolution {
        service_id,
        generation: policy.generation,
        standing: standing(policy, snapshot, settings),
        claims: BTreeMap::new(),
        proxy_targets: BTreeSet::new(),
        resolved_refs: true,
        reason: Reason::Applied,
        notes: Vec::new(),
        left_alone: Vec::new(),
    };
    let wait = snapshot.wait(&policy.id);
    // Without the Node nobody knows whether it is selected, and it does not look so.
    let may_wait = matches!(resolution.standing, Standing::Active | Standing::NotSelected);
    if may_wait && matches!(wait, Some(Wait::First(_))) {
        resolution.standing = Standing::Pending;
    }
    match (&policy.spec, resolution.standing) {
        (Err(invalid), _) => resolution.stop(Reason::InvalidSpec, problems(invalid)),
        (Ok(_), Standing::Disabled) => {
            resolution
                .stop(Reason::Disabled, "spec.enabled is false: the policy redirects nothing".to_owned());
        }
        (Ok(_), Standing::NotSelected) => {
            resolution.stop(Reason::NotSelected, why_not_selected(policy.id.kind, settings));
        }
        (Ok(_), Standing::Pending) => {
            resolution.stop(Reason::Pending, waits(policy, snapshot, settings));
        }
        (Ok(spec), Standing::Active | Standing::Invalid) => {
            resolve_active(&policy.id, spec, &mut resolution, snapshot, settings);
            if settings.role == Role::Cluster && !is_for_a_node(spec, snapshot) {
                let note = "; it applies on hosts outside the cluster only (enableOutCluster)";
                resolution.notes.insert(0, why_not_selected(policy.id.kind, settings) + note);
            }
        }
    }
    if let Some(Wait::Next(generation)) = wait {
        let kept =
            if generation == policy.generation { "the last complete list" } else { "the last generation" };
        let wanted = snapshot.wanted(&policy.id).unwrap_or(policy);
        let kept = format!("{}; {kept} stays in force", waits(wanted, snapshot, settings));
        resolution.notes.insert(0, kept);
        if matches!(resolution.reason, Reason::Applied | Reason::NotSelected) {
            resolution.reason = Reason::Pending;
        }
    }
    resolution
}

/// Whether the policy takes part on this host.
#[must_use]
pub(crate) fn standing(policy: &Policy, snapshot: &Snapshot, settings: &Settings) -> Standing {
    let Ok(spec) = &policy.spec else { return Standing::Invalid };
    if !spec.enabled {
        return Standing::Disabled;
    }
    let selected = match settings.role {
        Role::External => policy.id.kind == PolicyKind::Balancing && spec.out_cluster,
        Role::Cluster => {
            let outside = policy.id.kind == PolicyKind::Balancing && spec.out_cluster;
            outside || is_for_a_node(spec, snapshot)
        }
        Role::Node => {
            spec.node_selector == LabelSelector::default()
                || snapshot
                    .node(&settings.node_name)
                    .is_some_and(|node| spec.node_selector.matches(&node.labels))
        }
    };
    if selected { Standing::Active } else { Standing::NotSelected }
}

/// Whether a node of the cluster is meant, seen from the whole of it.
fn is_for_a_node(spec: &PolicySpec, snapshot: &Snapshot) -> bool {
    spec.node_selector == LabelSelector::default()
        || snapshot.nodes().any(|node| spec.node_selector.matches(&node.labels))
}

impl Resolution {
    fn stop(&mut self, reason: Reason, note: String) {
        self.reason = reason;
        self.notes.push(note);
    }

    fn unresolved(&mut self, reason: Reason, note: String) {
        self.resolved_refs = false;
        self.stop(reason, note);
    }
}

fn resolve_active(
    id: &PolicyRef,
    spec: &PolicySpec,
    resolution: &mut Resolution,
    snapshot: &Snapshot,
    settings: &Settings,
) {
    let frontends = match Frontends::of(id, &spec.frontend, snapshot, settings) {
        Ok(frontends) => frontends,
        Err(problem) => return resolution.unresolved(problem.reason, problem.message),
    };
    resolution.left_alone.clone_from(&frontends.left_alone);
    let backend_ports = backend_ports(&spec.backend);
    let pairing = Pairing::of(&frontends.ports, frontends.whole_service, &backend_ports);
    let unpaired = pairing.unpaired_frontends(&frontends);
    if !unpaired.is_empty() {
        resolution.unresolved(Reason::PortsNotPaired, unpaired.join("; "));
    }
    resolution.notes.extend(pairing.unused_backends(&backend_ports));
    resolution.notes.extend(frontends.left_alone.iter().cloned());
    let mut pool = Pool::new(id, spec, frontends.service, snapshot, settings);
    let template = template(id, spec, resolution.service_id, &pool, settings);
    for &(frontend, backend) in &pairing.pairs {
        let port = &frontends.ports[frontend];
        if !frontends.offers(port) {
            continue;
        }
        for (family, addresses) in frontends.families() {
            let backends = pool.backends(backend, family);
            let decides = !backends.is_empty() || template.reject;
            let layer = decides.then(|| Arc::new(Layer { backends, ..template.clone() }));
            for &address in addresses {
                let key = FrontendKey { address, port: port.port, protocol: port.protocol };
                resolution.claims.entry(key).or_insert_with(|| layer.clone());
            }
        }
    }
    if !pairing.pairs.is_empty() {
        resolution.notes.extend(pool.notes());
    }
    resolution.proxy_targets = pool.into_targets();
}

/// The layer without its backends: the same for all frontends of the policy.
fn template(
    id: &PolicyRef,
    spec: &PolicySpec,
    service_id: u32,
    pool: &Pool<'_>,
    settings: &Settings,
) -> Layer {
    let balancing = id.kind == PolicyKind::Balancing;
    let limit = spec.qos_limit.map_or(settings.qos_limit, NonZeroU32::new);
    let skips = !balancing && spec.skip_redirect_from_backend;
    Layer {
        policy: id.clone(),
        service_id,
        backends: Vec::new(),
        clients: spec.clients,
        qos_limit: limit.filter(|_| !balancing),
        affinity: spec.affinity.and_then(NonZeroU32::new).filter(|_| balancing),
        reject: balancing && on_no_backend(spec) == OnNoBackend::Reject,
        skip: if skips { pool.identities() } else { BTreeSet::<ClientId>::new() },
    }
}

/// What becomes of a connection without a backend.
fn on_no_backend(spec: &PolicySpec) -> OnNoBackend {
    spec.on_no_backend.unwrap_or(match spec.frontend {
        FrontendSpec::Address { .. } => OnNoBackend::Reject,
        FrontendSpec::Service { .. } => OnNoBackend::Fallback,
    })
}

fn backend_ports(backend: &BackendSpec) -> Vec<&Port> {
    match backend {
        BackendSpec::LocalPods(pods) | BackendSpec::Pods { pods, .. } => {
            pods.ports.iter().map(|p| &p.port).collect()
        }
        BackendSpec::Addresses { ports, .. } => ports.iter().collect(),
    }
}

fn problems(invalid: &InvalidSpec) -> String {
    let lines: Vec<String> = invalid.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
    lines.join("; ")
}

fn why_not_selected(kind: PolicyKind, settings: &Settings) -> String {
    match (settings.role, kind) {
        (Role::Cluster, _) => "spec.config.nodeLabelSelector matches the labels of no node".to_owned(),
        (Role::Node, _) => {
            format!("spec.config.nodeLabelSelector does not match the labels of node {}", settings.node_name)
        }
        (Role::External, PolicyKind::LocalRedirect) => {
            "a LocalRedirectPolicy does not apply on hosts outside the cluster".to_owned()
        }
        (Role::External, PolicyKind::Balancing) => {
            "spec.config.enableOutCluster is false: the policy does not apply on hosts outside the cluster"
                .to_owned()
        }
    }
}

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
#[cfg(test)]
mod tests;
