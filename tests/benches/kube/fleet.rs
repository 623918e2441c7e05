//! The Services, pods and policies of a large cluster, and what the kernel of each node has to have for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use balancing_dataplane::{ABI, layout::Layout, tables::Reader};
use balancing_tests::{Cgroup, Node, Object, eventually_within};
use serde_json::json;

use crate::world::World;

/// Pods of a Service.
pub(crate) const PODS: usize = 10;
/// Nodes over which the pods are spread.
const NODES: usize = 100;
/// One policy of so many is a LocalRedirectPolicy, the others are BalancingPolicies.
const LOCAL: usize = 10;
/// Services whose pods are made at once: agents look in vain for cgroups until all of them are.
const BATCH: usize = 25;
const PORT: u16 = 80;
/// How long agents may take for anything at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what many objects have become.
const PAUSE: Duration = Duration::from_millis(200);

/// Backends by frontend.
pub(crate) type Tables = BTreeMap<SocketAddr, BTreeSet<SocketAddr>>;

/// What is in the cluster. Policy `n` is for Service `n` and selects its pods.
pub(crate) struct Fleet {
    pub(crate) services: usize,
    pub(crate) policies: usize,
    /// Readiness of the pods, [`PODS`] a Service.
    ready: Vec<bool>,
    /// Where a kubelet would put the pods of the nodes whose agents run.
    cgroups: Vec<Cgroup>,
}

impl Fleet {
    /// No Services yet, all nodes.
    pub(crate) fn new(world: &World) -> Self {
        for number in world.nodes.len() + 1..=NODES {
            world.plane.add_node(&node_name(number), &[], &format!("192.0.2.{number}"));
        }
        Self { services: 0, policies: 0, ready: Vec::new(), cgroups: Vec::new() }
    }

    /// Adds Services and their pods up to a number.
    pub(crate) fn grow(&mut self, world: &World, services: usize) {
        let new = self.services..services;
        world.plane.client().create_many(new.clone().map(service)).expect("Services are created");
        for first in new.step_by(BATCH) {
            let batch = first..services.min(first + BATCH);
            let pods = batch.flat_map(|service| (0..PODS).map(move |number| pod(service, number)));
            for pod in world.plane.run_pods(pods) {
                let mut nodes = world.nodes.iter().zip(1..);
                let here = nodes.find(|(_, number)| pod.at("/spec/nodeName") == &*node_name(*number));
                self.cgroups.extend(here.map(|(node, _)| node.pod_cgroup(&pod)));
            }
        }
        self.services = services;
        self.ready.resize(services * PODS, true);
    }

    /// Adds or removes policies up to a number.
    pub(crate) fn set_policies(&mut self, world: &World, policies: usize) {
        let client = world.plane.client();
        client.create_many((self.policies..policies).map(policy)).expect("policies are created");
        for number in policies..self.policies {
            client.delete(&policy(number)).expect("the policy is there");
        }
        self.policies = policies;
    }

    /// Pods whose readiness the agents have to know: those of BalancingPolicies, and the local ones of LocalRedirectPolicies.
    pub(crate) fn watched(&self) -> Vec<usize> {
        let measured = [node_name(1), node_name(2)];
        let pods = 0..self.policies * PODS;
        pods.filter(|at| !is_local(at / PODS) || measured.contains(&node_of(at / PODS, at % PODS))).collect()
    }

    /// Turns the readiness of a pod over; its name and what it is now.
    pub(crate) fn flip(&mut self, pod: usize) -> (String, bool) {
        self.ready[pod] = !self.ready[pod];
        (pod_name(pod / PODS, pod % PODS), self.ready[pod])
    }

    /// What the kernel of a node has to have.
    pub(crate) fn wanted(&self, node: usize) -> Tables {
        let here = node_name(node + 1);
        let mut tables = Tables::new();
        for policy in 0..self.policies {
            let counts = |pod: &usize| {
                self.ready[policy * PODS + pod] && (!is_local(policy) || node_of(policy, *pod) == here)
            };
            let backends: BTreeSet<_> =
                (0..PODS).filter(counts).map(|pod| SocketAddr::new(pod_ip(policy, pod), PORT)).collect();
            if !backends.is_empty() {
                tables.insert(SocketAddr::new(service_ip(policy), PORT), backends);
            }
        }
        tables
    }

    /// Waits until all policies are in force on the nodes whose agents run, and have a status. Numbers in a status come
    /// later, a few each second, whatever is measured meanwhile.
    pub(crate) fn wait_settled(&self, world: &World) {
        for (at, node) in world.nodes.iter().enumerate() {
            let wanted = self.wanted(at);
            eventually_within(PATIENCE, || {
                differences(&tables(node), &wanted).inspect_err(|_| thread::sleep(PAUSE))
            });
        }
        let conditions = |policy: &Object| policy.at("/status/conditions").as_array().map_or(0, Vec::len);
        eventually_within(PATIENCE, || {
            for kind in ["LocalRedirectPolicy", "BalancingPolicy"] {
                let policies = world.plane.client().list("balancing.elf.io/v1beta1", kind);
                let policies = policies.map_err(|refusal| refusal.to_string())?;
                if let Some(policy) = policies.iter().find(|policy| conditions(policy) == 0) {
                    thread::sleep(PAUSE);
                    return Err(format!("{} has no status", policy.name()));
                }
            }
            Ok(())
        });
    }
}

/// What the kernel of a node has; nothing while there are no tables.
pub(crate) fn tables(node: &Node) -> Tables {
    let layout: Layout = node.layout(ABI);
    let Ok(layers) = Reader::open(&layout).and_then(|reader| reader.layers()) else { return Tables::new() };
    let mut tables = Tables::new();
    for layer in layers {
        let backends = layer.layer.backends.iter().map(|b| SocketAddr::new(b.address, b.port));
        let at = SocketAddr::new(layer.key.address, layer.key.port);
        tables.entry(at).or_default().extend(backends);
    }
    tables.retain(|_, backends| !backends.is_empty());
    tables
}

/// Whether a kernel has what it has to have.
///
/// # Errors
/// How many frontends are wrong, and one of them.
pub(crate) fn differences(found: &Tables, wanted: &Tables) -> Result<(), String> {
    let keys: BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let mut wrong = keys.into_iter().filter(|key| found.get(key) != wanted.get(key));
    let Some(first) = wrong.next() else { return Ok(()) };
    let (has, wants, more) = (found.get(first), wanted.get(first), wrong.count());
    Err(format!("{first} leads to {has:?}, not {wants:?}; so do {more} others"))
}

fn is_local(policy: usize) -> bool {
    policy % LOCAL == LOCAL - 1
}

fn node_name(number: usize) -> String {
    format!("n{number}")
}

fn pod_name(service: usize, pod: usize) -> String {
    format!("s{service}-{pod}")
}

fn policy_name(policy: usize) -> String {
    format!("p{policy}")
}

/// The nodes whose agents run have a pod of every Service with a LocalRedirectPolicy.
fn node_of(service: usize, pod: usize) -> String {
    node_name(if is_local(service) { pod + 1 } else { (service * PODS + pod) % NODES + 1 })
}

fn ip(base: u32, number: usize) -> IpAddr {
    Ipv4Addr::from(base + u32::try_from(number).expect("a small number")).into()
}

/// 10.96.16.0 and what follows.
fn service_ip(service: usize) -> IpAddr {
    ip(0x0a60_1000, service)
}

/// 10.64.0.0 and what follows.
fn pod_ip(service: usize, pod: usize) -> IpAddr {
    ip(0x0a40_0000, service * PODS + pod)
}

fn service(number: usize) -> Object {
    let ip = service_ip(number).to_string();
    Object::service(&format!("s{number}"), &[&ip], &[("http", PORT)]).with("/spec/clusterIP", ip.as_str())
}

/// A pod about as large as a small one of real life: 5 kB.
fn pod(service: usize, number: usize) -> Object {
    let name = pod_name(service, number);
    let variables: Vec<_> = (0..20)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value {n} of {name}, which nobody reads")}))
        .collect();
    let image = "registry.example.com/team/application:v1.2.3";
    let main = json!({
        "name": "main",
        "image": image,
        "env": variables,
        "ports": [{"containerPort": PORT, "name": "http"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
    });
    let running = json!([{
        "name": "main", "image": image, "imageID": format!("{image}@sha256:{:064x}", number), "ready": true,
        "restartCount": 0, "started": true, "containerID": format!("containerd://{:064x}", service),
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }]);
    let conditions: Vec<_> =
        ["Ready", "Initialized", "ContainersReady", "PodScheduled", "PodReadyToStartContainers"]
            .map(|name| json!({"type": name, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
            .into();
    Object::pod(&name, &format!("s{service}"), &[&pod_ip(service, number).to_string()])
        .with("/spec/nodeName", node_of(service, number))
        .with("/spec/containers", json!([main]))
        .with("/status/containerStatuses", running)
        .with("/status/conditions", conditions)
}

fn policy(number: usize) -> Object {
    let (name, app) = (policy_name(number), format!("s{number}"));
    let policy = if is_local(number) {
        Object::local_redirect(&name, "0.0.0.0", PORT, &app)
    } else {
        Object::balancing(&name, "0.0.0.0", PORT, &app)
    };
    policy.for_service(&app)
}
