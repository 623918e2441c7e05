//! Why a connection to a frontend goes where it goes.
//!
//! It reads the decisions of the [`Engine`] and words them; it decides nothing itself and reads no
//! table of the kernel.

use std::net::IpAddr;

use balancing_abi::model::{Clients, FrontendKey};
use serde::Serialize;

use crate::{
    objects::{BackendSpec, ObjectRef, Pod, PolicyRef},
    plan::{Backend, Layer},
    resolve::{Engine, Role},
};

mod losers;
mod proxied;

/// The answer to `balancingctl explain`, in the words of its JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was asked.
    pub frontend: FrontendView,
    /// The policy that decides for this client.
    pub winner: Option<PolicyView>,
    /// Policies that might have decided and why they do not.
    pub losers: Vec<Loser>,
    /// Where the winner may send the connection.
    pub backends: Vec<BackendView>,
    /// What happens, in a sentence.
    pub decision: String,
}

/// What a client pod lacks of hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It has none; why.
    All(String),
    /// No pod was named, and processes of the host have none.
    Host,
    /// Only so many run.
    Some {
        /// Hooks that run.
        count: usize,
        /// Why the others do not.
        why: String,
    },
}

/// A frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontendView {
    /// Dialled address.
    pub address: IpAddr,
    /// Dialled port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
}

/// A policy by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyView {
    /// Kubernetes kind.
    pub kind: &'static str,
    /// Name.
    pub name: String,
}

/// A policy that does not decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loser {
    /// Kubernetes kind.
    pub kind: &'static str,
    /// Name.
    pub name: String,
    /// Why it does not decide.
    pub why: String,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendView {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of new connections.
    pub weight: u32,
    /// `namespace/name` of the pod behind it, if it is one.
    pub pod: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// The pods behind it, where it is the proxy address of a node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
}

/// What the kernel does at a frontend, where that is not what was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// Nothing has been decided yet: the source's list is not complete.
    NotSynced,
    /// The decision could not be programmed, and why.
    Failed(String),
    /// What an earlier agent programmed stays, because what it belongs to is not known completely.
    Kept,
}

/// What the layers make of a connection.
struct Outcome<'a> {
    winner: Option<&'a Layer>,
    text: String,
    aside: Vec<(&'a PolicyRef, String)>,
}

/// Explains a frontend, for connections of the pod `client` or of anybody.
#[must_use]
pub fn explain(engine: &Engine, key: FrontendKey, client: Option<&ObjectRef>) -> Explanation {
    let key = FrontendKey { address: key.address.to_canonical(), ..key };
    let entry = engine.entry(&key);
    let layers: Vec<&Layer> = entry.iter().flat_map(|entry| &entry.layers).map(AsRef::as_ref).collect();
    let pod = client.and_then(|name| engine.snapshot().pod(name));
    let unknown = client.and_then(|name| not_here(engine, name, pod));
    let untouched = pod.and_then(|pod| never_redirected(engine, pod));
    let destination = dialled(engine, &key);
    let untouched = unknown.or_else(|| untouched.map(|why| format!("{why}; {destination}")));
    let outcome = match untouched {
        Some(text) => Outcome { winner: None, text, aside: Vec::new() },
        None if layers.is_empty() => Outcome {
            winner: None,
            text: format!("no policy redirects {key}; {destination}"),
            aside: Vec::new(),
        },
        None => walk(engine, &layers, pod, &destination),
    };
    let mut losers: Vec<Loser> =
        outcome.aside.iter().map(|(policy, why)| loser(policy, why.clone())).collect();
    losers.extend(losers::others(engine, &key, &layers, outcome.winner));
    Explanation {
        frontend: FrontendView { address: key.address, port: key.port, protocol: key.protocol.to_string() },
        winner: outcome
            .winner
            .map(|layer| PolicyView { kind: layer.policy.kind.kind(), name: layer.policy.name.clone() }),
        losers,
        backends: outcome.winner.map(|layer| views(engine, layer)).unwrap_or_default(),
        decision: outcome.text,
    }
}

impl Explanation {
    /// Adds what the kernel does instead of what was decided; `kernel` are the policies that it asks, in order.
    pub fn deviate(&mut self, deviation: &Deviation, kernel: &[String]) {
        let does = match kernel {
            [] => "the kernel has nothing for it, so connections go where they were dialled".to_owned(),
            names => format!("the kernel has an earlier state, of {}", names.join(", then ")),
        };
        let decision = std::mem::take(&mut self.decision);
        self.decision = match deviation {
            Deviation::NotSynced => {
                format!(
                    "the agent has not read all objects from its source, so it has decided nothing yet: {does}"
                )
            }
            Deviation::Failed(why) => {
                format!("not in force: {decision}. It is not programmed: {why}; {does}")
            }
            Deviation::Kept => format!("{decision}. That is not in force yet: {does}"),
        };
        if !matches!(deviation, Deviation::Kept) {
            self.winner = None;
            self.backends.clear();
        }
    }

    /// The client pod lacks hooks, whatever is decided for its connections.
    pub fn lacks_hooks(&mut self, lack: &Lack) {
        let decision = std::mem::take(&mut self.decision);
        self.decision = match lack {
            Lack::All(why) => {
                self.winner = None;
                self.backends.clear();
                format!("goes where it was dialled: the pod has no hooks ({why}); with hooks: {decision}")
            }
            Lack::Host => format!("{decision}, for pods; processes of the host have no hooks"),
            Lack::Some { count, why } => {
                format!("{decision}; but only {count} hooks run for the pod, so not for every call: {why}")
            }
        };
    }
}

/// The first layer that applies, and what happens where it stands aside.
fn walk<'a>(engine: &Engine, layers: &[&'a Layer], pod: Option<&Pod>, destination: &str) -> Outcome<'a> {
    let Some((&layer, rest)) = layers.split_first() else {
        return Outcome { winner: None, text: destination.to_owned(), aside: Vec::new() };
    };
    let below = || walk(engine, rest, pod, destination);
    let name = name(&layer.policy);
    let usable = layer.backends.iter().filter(|backend| backend.target.weight > 0).count();
    let reason = pod.and_then(|pod| stands_aside(engine, layer, pod));
    let reason = reason
        .or_else(|| (usable == 0 && !layer.reject).then(|| "its backends all have weight 0".to_owned()));
    if let Some(reason) = reason {
        let mut outcome = below();
        outcome.text = format!("{name} stands aside, {reason}; {}", outcome.text);
        outcome.aside.insert(0, (&layer.policy, reason));
        return outcome;
    }
    let mut text = if usable == 0 {
        format!(
            "refused with EHOSTUNREACH: {name} has no backend for new connections and onNoBackend is Reject"
        )
    } else {
        format!("redirected by {name} to {usable} backend{}", if usable == 1 { "" } else { "s" })
    };
    if let (Some(limit), true) = (layer.qos_limit, usable > 0) {
        text.push_str(&format!("; above {limit} redirections in a second: {}", below().text));
    }
    if pod.is_none() && layer.clients != Clients::All {
        text.push_str(&format!(
            "; it applies to {} only, for others: {}",
            audience(layer.clients),
            below().text
        ));
    }
    if let Some(note) = pod.and_then(|pod| unknown_identity(engine, layer, pod)) {
        text.push_str(&note);
    }
    Outcome { winner: Some(layer), text, aside: Vec::new() }
}

/// Why nothing can be said about the connections of this pod.
fn not_here(engine: &Engine, name: &ObjectRef, pod: Option<&Pod>) -> Option<String> {
    let (settings, shown) = (engine.settings(), format!("pod {}/{}", name.namespace, name.name));
    let here = &settings.node_name;
    match (settings.role, pod) {
        (Role::Node, None) => Some(format!(
            "no such pod is on node {here}: {shown}; correct the name, or ask the agent of its node"
        )),
        (Role::External | Role::Cluster, None) => {
            Some(format!("{shown} is not known here: leave out --pod, or ask the agent of its node"))
        }
        (Role::Node, Some(pod)) if pod.node != *here => {
            let node = if pod.node.is_empty() { "no node yet" } else { &pod.node };
            Some(format!("{shown} runs on {node}, not on {here}: ask the agent there"))
        }
        (_, Some(_)) => None,
    }
}

/// Why no connection of this pod is redirected by this agent, whatever the policies say.
fn never_redirected(engine: &Engine, pod: &Pod) -> Option<String> {
    let (settings, shown) = (engine.settings(), format!("pod {}/{}", pod.namespace, pod.name));
    if pod.redirect_disabled {
        return Some(format!("{shown} opted out by the annotation balancing.elf.io/redirect: \"disabled\""));
    }
    let hooked = includes(settings.scope, pod);
    (!hooked).then(|| {
        format!("{shown} is not hooked: the agent runs with --scope for {} only", audience(settings.scope))
    })
}

/// Why the layer does not apply to this pod.
fn stands_aside(engine: &Engine, layer: &Layer, pod: &Pod) -> Option<String> {
    if !includes(layer.clients, pod) {
        let own =
            if pod.host_network { "uses the host's network" } else { "does not use the host's network" };
        return Some(format!("spec.clients admits {} only and the pod {own}", audience(layer.clients)));
    }
    let ids = engine.snapshot().identities(&pod.uid)?;
    (!layer.skip.is_disjoint(ids))
        .then(|| "the pod is a backend of it and skipRedirectFromBackend is set".to_owned())
}

fn unknown_identity(engine: &Engine, layer: &Layer, pod: &Pod) -> Option<String> {
    let spec = engine.snapshot().policy(&layer.policy)?.spec.as_ref().ok()?;
    let BackendSpec::LocalPods(pods) = &spec.backend else { return None };
    let selected =
        pods.selector.matches(&pod.labels) && pods.namespace.as_ref().is_none_or(|n| *n == pod.namespace);
    (spec.skip_redirect_from_backend && selected && engine.snapshot().identities(&pod.uid).is_none()).then(|| {
        "; skipRedirectFromBackend has no effect yet: the network namespace and cgroup of the pod are not known".to_owned()
    })
}

/// Where the connection goes when no policy has a say.
fn dialled(engine: &Engine, key: &FrontendKey) -> String {
    let owner = engine.snapshot().services().find(|service| {
        let addresses = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
        addresses.iter().any(|set| set.contains(&key.address))
            && service.ports.iter().any(|p| (p.port, p.protocol) == (key.port, key.protocol))
    });
    match owner {
        Some(service) => {
            format!("goes where it was dialled, to Service {}/{}", service.namespace, service.name)
        }
        None => "goes where it was dialled".to_owned(),
    }
}

fn includes(clients: Clients, pod: &Pod) -> bool {
    match clients {
        Clients::All => true,
        Clients::Pods => !pod.host_network,
        Clients::Host => pod.host_network,
    }
}

fn audience(clients: Clients) -> &'static str {
    match clients {
        Clients::All => "all clients",
        Clients::Pods => "pods",
        Clients::Host => "processes in the host's network",
    }
}

fn name(policy: &PolicyRef) -> String {
    format!("{} {}", policy.kind, policy.name)
}

fn loser(policy: &PolicyRef, why: String) -> Loser {
    Loser { kind: policy.kind.kind(), name: policy.name.clone(), why }
}

fn views(engine: &Engine, layer: &Layer) -> Vec<BackendView> {
    let view = |backend| view(backend, proxied::behind(engine, &layer.policy, backend));
    layer.backends.iter().map(view).collect()
}

fn view(backend: &Backend, pods: Vec<String>) -> BackendView {
    BackendView {
        address: backend.target.address,
        port: backend.target.port,
        weight: backend.target.weight,
        pod: backend.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        node: backend.node.clone(),
        pods,
    }
}

#[cfg(test)]
mod tests;
