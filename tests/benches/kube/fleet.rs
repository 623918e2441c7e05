//! The Services, pods and policies of a large cluster, and what the kernel of each node has to have for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    thread,
    time::Duration,
};

use balancing_dataplane::{ABI, layout::Layout, tables::Reader};
use balancing_tests::{Cgroup, Node, Object, eventually_within};

use crate::world::World;

mod objects;

pub(crate) use objects::{PODS, Shape, node_name};
use objects::{PORT, node_ip, pod_ip, pod_name, service, service_ip};

/// Services whose pods are made at once: agents look in vain for cgroups until all of them are.
const BATCH: usize = 25;
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
    shape: Shape,
    /// Readiness of the pods, [`PODS`] a Service.
    ready: Vec<bool>,
    /// Where a kubelet would put the pods of the nodes whose agents run.
    cgroups: Vec<Cgroup>,
}

impl Fleet {
    /// No Services yet, all nodes.
    pub(crate) fn new(world: &World, shape: Shape) -> Self {
        world.plane.add_nodes(other_nodes(world, shape));
        Self { services: 0, policies: 0, shape, ready: Vec::new(), cgroups: Vec::new() }
    }

    /// A number of Services, all nodes and pods; these go into the store behind the API server's back.
    pub(crate) fn stored(world: &mut World, shape: Shape, services: usize) -> Self {
        let mut fleet = Self { services: 0, policies: 0, shape, ready: Vec::new(), cgroups: Vec::new() };
        let new = fleet.add_services(world, services);
        let pods: Vec<Object> = fleet.pods(new).collect();
        for pod in &pods {
            fleet.give_cgroup(world, pod);
        }
        world.plane.store(other_nodes(world, shape), pods);
        fleet
    }

    /// Adds Services and their pods up to a number. The API server makes everything, as in a real cluster.
    pub(crate) fn grow(&mut self, world: &World, services: usize) {
        let new = self.add_services(world, services);
        for first in new.step_by(BATCH) {
            let batch = first..services.min(first + BATCH);
            for pod in world.plane.run_pods(self.pods(batch)) {
                self.give_cgroup(world, &pod);
            }
        }
    }

    fn add_services(&mut self, world: &World, services: usize) -> Range<usize> {
        let new = self.services..services;
        world.plane.client().create_many(new.clone().map(service)).expect("Services are created");
        self.services = services;
        self.ready.resize(services * PODS, true);
        new
    }

    fn pods(&self, services: Range<usize>) -> impl Iterator<Item = Object> + use<> {
        let shape = self.shape;
        services.flat_map(move |service| (0..PODS).map(move |number| shape.pod(service, number)))
    }

    /// What a kubelet makes for a pod, if it is one of a node whose agent runs.
    fn give_cgroup(&mut self, world: &World, pod: &Object) {
        let mut nodes = world.nodes.iter().zip(1..);
        let here = nodes.find(|(_, number)| pod.at("/spec/nodeName") == &*node_name(*number));
        self.cgroups.extend(here.map(|(node, _)| node.pod_cgroup(pod)));
    }

    /// Adds or removes policies up to a number.
    pub(crate) fn set_policies(&mut self, world: &World, policies: usize) {
        let client = world.plane.client();
        client
            .create_many((self.policies..policies).map(|number| self.shape.policy(number)))
            .expect("policies are created");
        for number in policies..self.policies {
            client.delete(&self.shape.policy(number)).expect("the policy is there");
        }
        self.policies = policies;
    }

    /// Pods whose readiness the agents have to know: those of BalancingPolicies, and the local ones of LocalRedirectPolicies.
    pub(crate) fn watched(&self) -> Vec<usize> {
        let measured = [node_name(1), node_name(2)];
        let pods = 0..self.policies * PODS;
        pods.filter(|at| {
            let (policy, pod) = (at / PODS, at % PODS);
            !self.shape.is_local(policy) || measured.contains(&self.shape.node_of(policy, pod))
        })
        .collect()
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
                self.ready[policy * PODS + pod]
                    && (!self.shape.is_local(policy) || self.shape.node_of(policy, *pod) == here)
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

/// Names and addresses of the nodes without agents.
fn other_nodes(world: &World, shape: Shape) -> impl Iterator<Item = (String, String)> + use<> {
    let others = world.nodes.len() + 1..=shape.nodes;
    others.map(|number| (node_name(number), node_ip(number).to_string()))
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
