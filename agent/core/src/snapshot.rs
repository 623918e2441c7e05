//! What the sources say at this moment, indexed, and which policies a change touches.
//!
//! It owns the current objects, the observed identities of local pods and the set of dirty
//! policies. It decides nothing: what a policy makes of the objects is `resolve`'s business.
//! Every change costs what it touches: a pod is compared only with policies that share a label
//! pair with it, and a policy visits only pods that share one with its selector.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancing_abi::model::{ClientId, PolicyKind};

use crate::{
    kinds::Lacking,
    objects::{
        Addresses, BackendSpec, Endpoints, LabelSelector, Node, Object, ObjectKey, ObjectRef, Pod, Policy,
        PolicyRef, RedirectMode, Service,
    },
};

mod addresses;
mod fabric;
mod generations;
mod owners;
mod pods;

pub use generations::{Needs, Wait};

use addresses::AddressIndex;
use fabric::FabricObjects;
use generations::Generations;
use owners::Owners;
use pods::Pods;

/// The current objects and the policies that wait to be resolved again.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The node whose pods are local; `None` = every pod is.
    node_name: Option<String>,
    pods: Pods,
    nodes: BTreeMap<String, Node>,
    services: BTreeMap<ObjectRef, Service>,
    addresses: AddressIndex,
    /// The policies as they are in force.
    owners: Owners,
    generations: Generations,
    identities: BTreeMap<String, BTreeSet<ClientId>>,
    /// Containers of local pods that were seen to end, by the UID that the node knows.
    ended: BTreeMap<String, BTreeSet<Box<str>>>,
    /// Kinds that policies look at and that are not known completely.
    lacking: Lacking,
    dirty: BTreeSet<PolicyRef>,
    fabric: FabricObjects,
}

impl Snapshot {
    /// An empty snapshot as seen from a node, whose name is empty outside the cluster; `None` = as seen from
    /// the whole cluster.
    #[must_use]
    pub fn new(node_name: Option<&str>) -> Self {
        Self { node_name: node_name.map(str::to_owned), ..Self::default() }
    }

    /// Takes in changes: `None` deletes the object of that key. An object that is equal to the
    /// known one changes nothing.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (ObjectKey, Option<Object>)>) {
        for change in changes {
            match change {
                (_, Some(Object::Pod(pod))) => self.put_pod(pod),
                (_, Some(Object::Node(node))) => self.set_node(&node.name.clone(), Some(node)),
                (_, Some(Object::Service(service))) => {
                    let key = ObjectRef { namespace: service.namespace.clone(), name: service.name.clone() };
                    self.set_service(&key, Some(service));
                }
                (_, Some(Object::Policy(policy))) => self.set_policy(&policy.id.clone(), Some(policy)),
                (_, Some(Object::Endpoints(endpoints))) => {
                    self.set_endpoints(&endpoints.slice.clone(), Some(endpoints));
                }
                (_, Some(Object::Fabric(fabric))) => {
                    self.fabric.set_fabric(&fabric.name.clone(), Some(fabric));
                }
                (_, Some(Object::Member(member))) => {
                    self.fabric.set_member(&member.name.clone(), Some(member));
                }
                (_, Some(Object::ExternalHost(host))) => {
                    self.fabric.set_external_host(&host.name.clone(), Some(host));
                }
                (_, Some(Object::Claim(claim))) => self.fabric.set_claim(&claim.name.clone(), Some(claim)),
                (ObjectKey::Fabric(name), None) => self.fabric.set_fabric(&name, None),
                (ObjectKey::Member(name), None) => self.fabric.set_member(&name, None),
                (ObjectKey::ExternalHost(name), None) => self.fabric.set_external_host(&name, None),
                (ObjectKey::Claim(name), None) => self.fabric.set_claim(&name, None),
                (ObjectKey::Pod(key), None) => self.remove_pod(&key),
                (ObjectKey::Node(name), None) => self.set_node(&name, None),
                (ObjectKey::Service(key), None) => self.set_service(&key, None),
                (ObjectKey::Policy(key), None) => self.set_policy(&key, None),
                (ObjectKey::Endpoints(key), None) => self.set_endpoints(&key, None),
            }
        }
    }

    /// Takes in which kinds are not known completely.
    pub fn set_lacking(&mut self, lacking: Lacking) {
        let (fabric, lacking) = lacking.into_iter().partition(|kind| kind.is_fabric());
        self.fabric.set_lacking(fabric);
        if self.lacking != lacking {
            self.lacking = lacking;
            self.dirty.extend(self.owners.iter().map(|policy| policy.id.clone()));
        }
    }

    /// The kinds that policies look at and that are not known completely.
    #[must_use]
    pub fn lacking(&self) -> &Lacking {
        &self.lacking
    }

    /// Records by what the connections of the local pod `uid` are recognised; an empty set
    /// forgets it. May come before the pod itself. Pods without a uid have no identity.
    pub fn set_identities(&mut self, uid: &str, ids: BTreeSet<ClientId>) {
        if uid.is_empty() || self.identities(uid) == Some(&ids) {
            return;
        }
        if ids.is_empty() {
            if self.identities.remove(uid).is_none() {
                return;
            }
        } else {
            self.identities.insert(uid.to_owned(), ids);
        }
        let Some(node) = self.node_name.as_deref() else { return };
        for pod in self.pods.on_node(node).filter(|pod| pod.uid == uid) {
            let users = self.owners.selecting(pod, Some(node)).filter(|policy| skips_backends(policy));
            self.dirty.extend(users.map(|policy| policy.id.clone()));
        }
    }

    /// Records which containers of the local pod that the node knows as `node_uid` were seen to end; an empty set forgets it. A pod
    /// of which the kubelet still says that such a container runs takes no new connections. Returns whether that concerns one.
    pub fn set_ended(&mut self, node_uid: &str, containers: BTreeSet<Box<str>>) -> bool {
        let before = if containers.is_empty() {
            self.ended.remove(node_uid)
        } else {
            self.ended.insert(node_uid.to_owned(), containers.clone())
        };
        if before.unwrap_or_default() == containers {
            return false;
        }
        let Some(node) = &self.node_name else { return false };
        let pods: Vec<Pod> =
            self.pods.on_node(node).filter(|pod| pod.node_uid() == node_uid).cloned().collect();
        let concerned =
            |pod: &Pod| pod.containers.iter().any(|id| containers.contains(id)) != pod.container_ended;
        let is_concerned = pods.iter().any(concerned);
        pods.into_iter().for_each(|pod| self.put_pod(pod));
        is_concerned
    }

    /// The policies touched since the last call; some may be gone.
    pub fn take_dirty(&mut self) -> BTreeSet<PolicyRef> {
        std::mem::take(&mut self.dirty)
    }

    /// A policy: the generation that is in force, the last one where none is.
    #[must_use]
    pub fn policy(&self, key: &PolicyRef) -> Option<&Policy> {
        self.owners.get(key)
    }

    /// All policies, by kind and name.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.owners.iter()
    }

    /// Number of objects by Kubernetes kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::from([
            ("Pod", self.pods.len()),
            ("Node", self.nodes.len()),
            ("Service", self.services.len()),
            ("EndpointSlice", self.generations.len()),
            ("TunnelFabric", self.fabric.fabrics.len()),
            ("TunnelNode", self.fabric.members.len()),
            ("ExternalHost", self.fabric.external_hosts.len()),
            ("TunnelAddressClaim", self.fabric.claims.len()),
            (PolicyKind::LocalRedirect.kind(), 0),
            (PolicyKind::Balancing.kind(), 0),
        ]);
        for policy in self.policies() {
            *counts.entry(policy.id.kind.kind()).or_default() += 1;
        }
        counts
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, key: &ObjectRef) -> Option<&Service> {
        self.services.get(key)
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// A pod of any node.
    #[must_use]
    pub fn pod(&self, key: &ObjectRef) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// A policy as the source has it.
    #[must_use]
    pub fn wanted(&self, key: &PolicyRef) -> Option<&Policy> {
        self.generations.wanted(key).or_else(|| self.owners.get(key))
    }

    /// For what a policy waits, as of the last [`Self::settle`].
    #[must_use]
    pub fn wait(&self, key: &PolicyRef) -> Option<Wait> {
        self.generations.wait(self.owners.get(key)?)
    }

    /// What the controller selected for the generation of a policy that is in force.
    pub fn endpoints(&self, policy: &PolicyRef) -> impl Iterator<Item = &Endpoints> {
        self.generations.in_force(policy)
    }

    /// The external addresses that the controller lets a policy claim, in the generation that is in force.
    #[must_use]
    pub fn approved(&self, policy: &PolicyRef) -> Option<&Addresses> {
        self.endpoints(policy).find_map(|slice| slice.approved.as_ref())
    }

    /// The Services that have the address as ClusterIP.
    pub fn with_cluster_ip(&self, address: IpAddr) -> impl Iterator<Item = &ObjectRef> {
        self.addresses.with_cluster_ip(address)
    }

    /// A node that has the address.
    #[must_use]
    pub fn node_at(&self, address: IpAddr) -> Option<&str> {
        self.addresses.nodes_with(address).next().map(String::as_str)
    }

    /// Puts the policy into force as the source has it, unless what it needs is not complete.
    pub fn settle(&mut self, key: &PolicyRef, needs: Needs) {
        if let Some(policy) = self.generations.settle(key, self.owners.get(key), needs) {
            self.owners.set(key, Some(policy));
        }
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The pods of one node, in no particular order.
    pub fn pods_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.pods.on_node(node)
    }

    /// The pods that match, in no particular order; `None` = any namespace, any node.
    #[must_use]
    pub fn select<'a>(
        &'a self,
        selector: &LabelSelector,
        namespace: Option<&str>,
        node: Option<&str>,
    ) -> Vec<&'a Pod> {
        self.pods.select(selector, namespace, node)
    }

    /// By what the connections of the local pod `uid` are recognised, once that is known.
    #[must_use]
    pub fn identities(&self, uid: &str) -> Option<&BTreeSet<ClientId>> {
        self.identities.get(uid)
    }

    fn put_pod(&mut self, mut pod: Pod) {
        if self.node_name.as_deref() != Some(&pod.node) {
            // Nobody looks at the containers of other nodes, and there are many.
            pod.containers = Vec::new();
        }
        let ended = self.ended.get(pod.node_uid());
        pod.container_ended = ended.is_some_and(|ended| pod.containers.iter().any(|id| ended.contains(id)));
        let key = ObjectRef { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let Some(old) = self.pods.put(pod) else { return };
        let node = self.node_name.as_deref();
        let users = old.iter().chain(self.pods.get(&key)).flat_map(|pod| self.owners.selecting(pod, node));
        self.dirty.extend(users.map(|policy| policy.id.clone()));
    }

    fn remove_pod(&mut self, key: &ObjectRef) {
        if let Some(old) = self.pods.remove(key) {
            let users = self.owners.selecting(&old, self.node_name.as_deref());
            self.dirty.extend(users.map(|policy| policy.id.clone()));
        }
    }

    fn set_service(&mut self, key: &ObjectRef, new: Option<Service>) {
        let Some((old, new)) = replace(&mut self.services, key, new) else { return };
        self.dirty.extend(self.owners.naming(key).cloned());
        let has_external = |service: &Option<Service>| service.as_ref().is_some_and(Service::has_external);
        if has_external(&old) != has_external(&new) {
            // What waits may name another Service than what is in force.
            self.dirty.extend(self.generations.waiting_for_service(key).cloned());
        }
        let changed = self.addresses.change_service(key, old.as_ref(), new.as_ref());
        self.touch_claims(&changed);
    }

    /// Whether these may be claimed as external addresses has to be looked at again.
    fn touch_claims(&mut self, addresses: &[IpAddr]) {
        let services = addresses.iter().flat_map(|address| self.addresses.with_external(*address));
        let users = services.flat_map(|service| self.owners.naming(service));
        self.dirty.extend(users.filter(|policy| policy.kind == PolicyKind::Balancing).cloned());
    }

    fn set_policy(&mut self, key: &PolicyRef, new: Option<Policy>) {
        if self.wanted(key) == new.as_ref() {
            return;
        }
        self.dirty.insert(key.clone());
        let Some(new) = new else {
            self.generations.remove(key);
            self.owners.set(key, None);
            return;
        };
        if self.generations.put(&new, self.owners.get(key).is_some()) {
            self.owners.set(key, Some(new));
        }
    }

    fn set_endpoints(&mut self, slice: &ObjectRef, new: Option<Endpoints>) {
        self.dirty.extend(self.generations.set_slice(slice, new));
    }

    fn set_node(&mut self, name: &str, new: Option<Node>) {
        let Some((old, new)) = replace(&mut self.nodes, name, new) else { return };
        self.fabric.count(true);
        let changed = self.addresses.change_node(name, old.as_ref(), new.as_ref());
        self.touch_claims(&changed);
        let (before, after) = (old.unwrap_or_default(), new.unwrap_or_default());
        // A node object that comes or goes counts as new labels: without it no selector but the
        // empty one matches.
        if self.node_name.as_deref().is_none_or(|here| here == name) {
            let existence = before.name != after.name;
            if existence || before.labels != after.labels {
                self.dirty.extend(self.owners.with_node_selector().cloned());
                // What waits may have another selector than what is in force.
                self.dirty.extend(self.generations.waiting().cloned());
            }
        }
        let (ips, proxies) = (before.ips != after.ips, before.proxy_ips != after.proxy_ips);
        // Only who lists the pods of the whole cluster tells their zones.
        let zone = self.node_name.is_none() && before.zone() != after.zone();
        if !ips && !proxies && !zone {
            return;
        }
        let concerns = |policy: &Policy| match node_mode(policy) {
            Some(RedirectMode::HostPort) => ips || zone,
            Some(RedirectMode::NodeProxy) => proxies || zone,
            Some(RedirectMode::PodEndpoint) => zone,
            None => false,
        };
        let here = self.node_name.as_deref();
        // A pod that is listed comes with the address it is reached at.
        let users = self.pods.on_node(name).flat_map(|pod| self.owners.selecting(pod, here));
        let users = users.filter(|policy| concerns(policy));
        self.dirty.extend(users.map(|policy| policy.id.clone()));
    }
}

/// Puts or removes a value; the old and the new one when they differ.
fn replace<K, Q, V>(map: &mut BTreeMap<K, V>, key: &Q, new: Option<V>) -> Option<(Option<V>, Option<V>)>
where
    K: Ord + std::borrow::Borrow<Q>,
    Q: Ord + ToOwned<Owned = K> + ?Sized,
    V: Clone + PartialEq,
{
    if map.get(key) == new.as_ref() {
        return None;
    }
    let old = match &new {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
    Some((old, new))
}

fn node_mode(policy: &Policy) -> Option<RedirectMode> {
    match &policy.spec.as_ref().ok()?.backend {
        BackendSpec::Pods { mode, .. } => Some(*mode),
        BackendSpec::LocalPods(_) | BackendSpec::Addresses { .. } => None,
    }
}

fn skips_backends(policy: &Policy) -> bool {
    policy.spec.as_ref().is_ok_and(|spec| spec.skip_redirect_from_backend)
}

#[cfg(test)]
mod tests;
