//! Builders of objects, and a laboratory that checks the laws of the engine at every step. For tests, of other crates too.

#![allow(
    missing_docs,
    clippy::new_without_default,
    reason = "short helpers of tests, which panic like tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
};

use balancing_abi::model::{ClientId, Clients, FrontendKey, PolicyKind, Protocol};

use crate::{
    kinds::{Lacking, ObjectKind},
    objects::{
        Addresses, BackendPort, BackendSpec, ContainerPort, ExternalHost, FrontendSpec, LabelSelector, Node,
        Object, ObjectKey, ObjectRef, Pod, PodBackend, Policy, PolicyRef, PolicySpec, Port, PortRef,
        RedirectMode, Service, ServicePort, TunnelFabric, TunnelNode, WeightedAddress,
    },
    plan::{Entry, Verdict},
    resolve::{ClusterPods, Delta, Engine, Role, Settings},
    snapshot::Wait,
};

pub use Protocol::{Tcp, Udp};

/// The node of the agent under test.
pub const HERE: &str = "node-a";
/// Another node.
pub const THERE: &str = "node-b";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub fn ips(texts: &[&str]) -> Addresses {
    texts.iter().map(|text| ip(text)).collect()
}

pub fn key(address: &str, port: u16, protocol: Protocol) -> FrontendKey {
    FrontendKey { address: ip(address), port, protocol }
}

pub fn labels<T: FromIterator<(String, String)>>(pairs: &[(&str, &str)]) -> T {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector { labels: labels(pairs), expressions: Vec::new() }
}

pub fn mk_ref(name: &str) -> ObjectRef {
    ObjectRef { namespace: "default".to_owned(), name: name.to_owned() }
}

pub fn local(name: &str) -> PolicyRef {
    PolicyRef { kind: PolicyKind::LocalRedirect, name: name.to_owned() }
}

pub fn balancing(name: &str) -> PolicyRef {
    PolicyRef { kind: PolicyKind::Balancing, name: name.to_owned() }
}

/// A ready pod `app=web` on this node.
pub fn mk_pod(name: &str, addresses: &[&str]) -> Pod {
    Pod {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        labels: labels(&[("app", "web")]),
        node: HERE.to_owned(),
        ready: true,
        ips: ips(addresses),
        ..Pod::default()
    }
}

pub fn mk_container_port(name: &str, port: u16, host_port: Option<u16>) -> ContainerPort {
    ContainerPort { name: name.to_owned(), port, host_port, protocol: Tcp }
}

pub fn mk_node(name: &str, addresses: &[&str], proxies: &[&str]) -> Node {
    Node { name: name.to_owned(), ips: ips(addresses), proxy_ips: ips(proxies), ..Node::default() }
}

/// A Service with ports `(name, port, protocol)`.
pub fn mk_service(name: &str, cluster_ips: &[&str], ports: &[(&str, u16, Protocol)]) -> Service {
    let port = |&(name, port, protocol): &(&str, u16, Protocol)| ServicePort {
        name: name.to_owned(),
        port,
        protocol,
        target: PortRef::Number(port),
    };
    Service {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        cluster_ips: ips(cluster_ips),
        ports: ports.iter().map(port).collect(),
        ..Service::default()
    }
}

pub fn mk_port(name: &str, port: u16, protocol: Protocol) -> Port {
    Port { port, protocol, name: name.to_owned() }
}

pub fn mk_ports(ports: &[(&str, u16, Protocol)]) -> Vec<Port> {
    ports.iter().map(|&(name, port, protocol)| mk_port(name, port, protocol)).collect()
}

pub fn at_address(address: &str, ports: &[(&str, u16, Protocol)]) -> FrontendSpec {
    FrontendSpec::Address { ip: ip(address), ports: mk_ports(ports) }
}

pub fn at_service(name: &str, ports: &[(&str, u16, Protocol)]) -> FrontendSpec {
    FrontendSpec::Service { service: mk_ref(name), ports: mk_ports(ports) }
}

/// Pods `app=web` of any namespace.
pub fn web_pods(ports: &[(&str, u16, Protocol)]) -> PodBackend {
    let ports = mk_ports(ports).into_iter().map(|port| BackendPort { port, automatic: false, target: None });
    PodBackend { selector: selector(&[("app", "web")]), namespace: None, ports: ports.collect() }
}

fn mk_spec(frontend: FrontendSpec, backend: BackendSpec) -> PolicySpec {
    PolicySpec {
        enabled: true,
        node_selector: LabelSelector::default(),
        out_cluster: true,
        frontend,
        backend,
        skip_redirect_from_backend: false,
        qos_limit: None,
        clients: Clients::All,
        affinity: None,
        on_no_backend: None,
    }
}

fn mk_policy(id: PolicyRef, frontend: FrontendSpec, backend: BackendSpec) -> Policy {
    Policy {
        id,
        uid: String::new(),
        generation: 1,
        created: Some(1000),
        proxy_ports: Vec::new(),
        service_id: None,
        spec: Ok(mk_spec(frontend, backend)),
    }
}

pub fn mk_local(name: &str, frontend: FrontendSpec, pods: PodBackend) -> Policy {
    mk_policy(local(name), frontend, BackendSpec::LocalPods(pods))
}

pub fn mk_balancing(name: &str, frontend: FrontendSpec, pods: PodBackend, mode: RedirectMode) -> Policy {
    mk_policy(balancing(name), frontend, BackendSpec::Pods { pods, mode })
}

/// A BalancingPolicy with addresses of weight 1 as backends.
pub fn mk_addresses(name: &str, frontend: FrontendSpec, addresses: &[&str], port: u16) -> Policy {
    let addresses = addresses.iter().map(|text| WeightedAddress { ip: ip(text), weight: 1 }).collect();
    mk_policy(
        balancing(name),
        frontend,
        BackendSpec::Addresses { addresses, ports: mk_ports(&[("", port, Tcp)]) },
    )
}

impl Policy {
    /// Changes the spec.
    pub fn with(mut self, change: impl FnOnce(&mut PolicySpec)) -> Self {
        let spec = self.spec.as_mut().unwrap_or_else(|error| panic!("{error:?}"));
        change(spec);
        self
    }

    /// The next generation, with another spec.
    pub fn edited(mut self, change: impl FnOnce(&mut PolicySpec)) -> Self {
        self.generation += 1;
        self.with(change)
    }

    pub fn created(mut self, at: Option<i64>) -> Self {
        self.created = at;
        self
    }

    pub fn service_id(mut self, id: u32) -> Self {
        self.service_id = Some(id);
        self
    }
}

pub fn mk_settings() -> Settings {
    Settings {
        role: Role::Node,
        node_name: HERE.to_owned(),
        qos_limit: None,
        cluster_pods: ClusterPods::Selected,
        scope: Clients::All,
    }
}

/// An engine beside what it was told. After each step its state must equal what its deltas add up to and, unless a
/// policy waits and an earlier state of it is kept, that of a new engine that is told everything at once.
pub struct Lab {
    pub engine: Engine,
    objects: BTreeMap<ObjectKey, Object>,
    identities: BTreeMap<String, BTreeSet<ClientId>>,
    ended: BTreeMap<String, BTreeSet<Box<str>>>,
    lacking: Lacking,
    entries: BTreeMap<FrontendKey, Entry>,
    verdicts: BTreeMap<PolicyRef, Verdict>,
}

impl Lab {
    pub fn new() -> Self {
        Self::with_settings(mk_settings())
    }

    pub fn with_settings(settings: Settings) -> Self {
        let (objects, identities, ended, lacking, entries, verdicts) = Default::default();
        Self { engine: Engine::new(settings), objects, identities, ended, lacking, entries, verdicts }
    }

    pub fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut lab = Self::new();
        lab.change(objects.into_iter().map(|object| (object.key(), Some(object))));
        lab
    }

    pub fn put(&mut self, object: impl Into<Object>) -> Delta {
        let object = object.into();
        self.change([(object.key(), Some(object))])
    }

    pub fn delete(&mut self, object: impl Into<Object>) -> Delta {
        self.change([(object.into().key(), None)])
    }

    pub fn identify(&mut self, uid: &str, ids: &[ClientId]) -> Delta {
        let ids: BTreeSet<ClientId> = ids.iter().copied().collect();
        self.engine.set_identities(uid, ids.clone());
        self.identities.insert(uid.to_owned(), ids);
        self.settle()
    }

    /// Says which containers of a pod were seen to end.
    pub fn end(&mut self, node_uid: &str, containers: &[&str]) -> Delta {
        let containers: BTreeSet<Box<str>> = containers.iter().map(|id| Box::from(*id)).collect();
        self.engine.set_ended(node_uid, containers.clone());
        self.ended.insert(node_uid.to_owned(), containers);
        self.settle()
    }

    /// Says which kinds are not known completely.
    pub fn lack(&mut self, kinds: &[ObjectKind]) -> Delta {
        self.lacking = kinds.iter().copied().collect();
        self.engine.set_lacking(self.lacking.clone());
        self.settle()
    }

    pub fn change(&mut self, changes: impl IntoIterator<Item = (ObjectKey, Option<Object>)>) -> Delta {
        let changes: Vec<_> = changes.into_iter().collect();
        for (key, object) in &changes {
            match object {
                Some(object) => self.objects.insert(key.clone(), object.clone()),
                None => self.objects.remove(key),
            };
        }
        self.engine.apply(changes);
        self.settle()
    }

    /// The backends of a frontend's first layer as `address:port*weight`; `-` = no entry.
    pub fn shows(&self, key: FrontendKey) -> String {
        self.entries.get(&key).map_or("-".to_owned(), |entry| show(&entry.layers[0]))
    }

    /// The same of the second layer.
    pub fn second(&self, key: FrontendKey) -> String {
        let second = self.entries.get(&key).and_then(|entry| entry.layers.get(1).map(AsRef::as_ref));
        second.map_or("-".to_owned(), show)
    }

    pub fn entry(&self, key: FrontendKey) -> &Entry {
        &self.entries[&key]
    }

    pub fn entries(&self) -> &BTreeMap<FrontendKey, Entry> {
        &self.entries
    }

    pub fn verdict(&self, policy: &PolicyRef) -> &Verdict {
        &self.verdicts[policy]
    }

    fn settle(&mut self) -> Delta {
        let delta = self.engine.resolve();
        fold(&mut self.entries, &delta.entries);
        fold(&mut self.verdicts, &delta.verdicts);
        assert_eq!(self.engine.entries().collect::<BTreeMap<_, _>>(), self.entries, "the state differs");
        assert_eq!(self.engine.verdicts(), &self.verdicts, "the engine's verdicts differ");
        assert_eq!(self.engine.resolve(), Delta::default(), "resolving twice changes something");
        let mut policies = self.verdicts.keys();
        if policies.any(|policy| matches!(self.engine.snapshot().wait(policy), Some(Wait::Next(_)))) {
            return delta;
        }
        let mut scratch = Engine::new(self.engine.settings().clone());
        scratch.apply(self.objects.iter().rev().map(|(key, object)| (key.clone(), Some(object.clone()))));
        scratch.set_lacking(self.lacking.clone());
        for (uid, ids) in &self.identities {
            scratch.set_identities(uid, ids.clone());
        }
        for (uid, containers) in &self.ended {
            scratch.set_ended(uid, containers.clone());
        }
        scratch.resolve();
        let expected: BTreeMap<_, _> = scratch.entries().collect();
        assert_eq!(self.entries, expected, "the deltas differ from a resolution from scratch");
        assert_eq!(&self.verdicts, scratch.verdicts(), "the verdicts differ");
        delta
    }
}

fn fold<K: Ord + Clone + std::fmt::Debug, V: Clone + PartialEq + std::fmt::Debug>(
    state: &mut BTreeMap<K, V>,
    delta: &BTreeMap<K, Option<V>>,
) {
    for (key, value) in delta {
        assert_ne!(state.get(key), value.as_ref(), "a delta names what did not change: {key:?}");
        match value {
            Some(value) => state.insert(key.clone(), value.clone()),
            None => state.remove(key),
        };
    }
}

fn show(layer: &crate::plan::Layer) -> String {
    let target = |b: &crate::plan::Backend| {
        let socket = std::net::SocketAddr::new(b.target.address, b.target.port);
        if b.target.weight == 1 { socket.to_string() } else { format!("{socket}*{}", b.target.weight) }
    };
    let list = layer.backends.iter().map(target).collect::<Vec<_>>().join(" ");
    match (layer.backends.is_empty(), layer.reject) {
        (true, true) => "reject".to_owned(),
        (true, false) => "empty".to_owned(),
        (false, _) => list,
    }
}

pub fn limit(n: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(n)
}

macro_rules! objects {
    ($($ty:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$ty> for Object {
            fn from(object: $ty) -> Self {
                Self::$variant(object)
            }
        }
    )+};
}

objects! {
    Pod => Pod,
    Node => Node,
    Service => Service,
    Policy => Policy,
    TunnelFabric => Fabric,
    TunnelNode => Member,
    ExternalHost => ExternalHost,
}
