//! The Kubernetes objects the agent looks at, reduced to what it needs, in plain types.
//!
//! Every source (directory, API server) produces these; `resolve` consumes them. No
//! serde and no Kubernetes type appears here. Bad input is carried as data ([`InvalidSpec`]), so that one bad
//! object never hides the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancing_abi::model::{Clients, PolicyKind, Protocol};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// `metadata.namespace`, empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// Kind and name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Its kind.
    pub kind: PolicyKind,
    /// `metadata.name`.
    pub name: String,
}

impl PolicyRef {
    /// A number for kind and name, the same everywhere and always: FNV-1a.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let words = [self.kind.kind(), "/", &self.name];
        words.iter().flat_map(|word| word.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// One object of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A pod of any node.
    Pod(Pod),
    /// A node.
    Node(Node),
    /// A Service.
    Service(Service),
    /// A LocalRedirectPolicy or BalancingPolicy, valid or not.
    Policy(Policy),
    /// Backends that the elected agent selected.
    Endpoints(Endpoints),
}

/// Identifies an [`Object`] within a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// Pod by namespace and name.
    Pod(ObjectRef),
    /// Node by name.
    Node(String),
    /// Service by namespace and name.
    Service(ObjectRef),
    /// Policy by kind and name.
    Policy(PolicyRef),
    /// EndpointSlice of ours by namespace and name.
    Endpoints(ObjectRef),
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Pod {
    /// `metadata.namespace`, `default` when absent.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.nodeName`; empty while unscheduled.
    pub node: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
    /// `status.podIPs`, else `status.podIP`.
    pub ips: BTreeSet<IpAddr>,
    /// `status.hostIPs`, else `status.hostIP`; filled from the Node when absent.
    pub host_ips: BTreeSet<IpAddr>,
    /// Container ports of all containers.
    pub ports: Vec<ContainerPort>,
    /// Annotation `balancing.elf.io/redirect: "disabled"`.
    pub redirect_disabled: bool,
}

/// `spec.containers[].ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// `name`, empty when absent.
    pub name: String,
    /// `containerPort`.
    pub port: u16,
    /// `hostPort`.
    pub host_port: Option<u16>,
    /// `protocol`; a port of another protocol is left out.
    pub protocol: Protocol,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `status.addresses` of type `InternalIP`.
    pub ips: BTreeSet<IpAddr>,
    /// Annotations `balancing.elf.io/nodeProxyIpv4` and `nodeProxyIpv6`: parsed addresses of the right family.
    pub proxy_ips: BTreeSet<IpAddr>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// `metadata.namespace`, `default` when absent.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.type` is `ExternalName`.
    pub external_name: bool,
    /// `spec.clusterIP` is `None`.
    pub headless: bool,
    /// `spec.clusterIPs`, else `spec.clusterIP`.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: BTreeSet<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: BTreeSet<IpAddr>,
    /// `spec.ports`; a port of another protocol than TCP or UDP is left out.
    pub ports: Vec<ServicePort>,
}

/// `spec.ports[]` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// `name`, empty when absent.
    pub name: String,
    /// `port`.
    pub port: u16,
    /// `protocol`.
    pub protocol: Protocol,
    /// `targetPort`; defaults to `port`.
    pub target: PortRef,
}

/// A port by number or by the name of a container port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// Number.
    Number(u16),
    /// Name of a container port.
    Name(String),
}

/// What one EndpointSlice of ours lists: pods of the cluster that a BalancingPolicy selects. An endpoint with
/// addresses of both families stands in two slices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// The EndpointSlice.
    pub slice: ObjectRef,
    /// The policy, which owns the slice.
    pub policy: PolicyRef,
    /// `metadata.uid` of the policy.
    pub policy_uid: String,
    /// `metadata.generation` of the policy whose selector and ports were looked at; `None` = written by an agent of
    /// an earlier version.
    pub generation: Option<i64>,
    /// How many slices this generation has; only one of them, the head, says it.
    pub set_size: Option<usize>,
    /// The backend ports of the policy that these pods have: name and protocol as in `toPorts`, the number
    /// as the pod has it (`hostPort` mode: the host port).
    pub ports: Vec<Port>,
    /// The pods.
    pub list: Vec<Endpoint>,
}

/// A pod in [`Endpoints`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of the pod.
    pub ip: IpAddr,
    /// The pod.
    pub pod: ObjectRef,
    /// Name of its node; empty when unknown.
    pub node: String,
    /// Zone of its node; empty when unknown.
    pub zone: String,
    /// It is Ready, not terminating and not finished.
    pub ready: bool,
}

/// A policy of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Kind and name.
    pub id: PolicyRef,
    /// `metadata.uid`; empty when the source has none.
    pub uid: String,
    /// `metadata.generation`, 0 when absent.
    pub generation: i64,
    /// `metadata.creationTimestamp` in seconds since 1970; absent counts as younger than any.
    pub created: Option<i64>,
    /// Annotation `balancing.elf.io/serviceId`, when it is valid.
    pub service_id: Option<u32>,
    /// The validated spec, or everything that is wrong with it.
    pub spec: Result<PolicySpec, InvalidSpec>,
}

/// Everything wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InvalidSpec {
    /// At least one, in the order of the fields.
    pub problems: Vec<Problem>,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Path of the field, such as `spec.frontend.addressMatcher.toPorts[1].port`.
    pub field: String,
    /// The rule, the value found and the remedy, in one line.
    pub message: String,
}

/// A valid spec.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicySpec {
    /// `spec.enabled`
    pub enabled: bool,
    /// `spec.config.nodeLabelSelector`
    pub node_selector: LabelSelector,
    /// `spec.config.enableOutCluster`
    pub out_cluster: bool,
    /// `spec.frontend`
    pub frontend: FrontendSpec,
    /// `spec.backend`
    pub backend: BackendSpec,
    /// `spec.skipRedirectFromBackend`
    pub skip_redirect_from_backend: bool,
    /// `spec.qosLimit`: `None` = the global limit applies, `Some(0)` = no limit.
    pub qos_limit: Option<u32>,
    /// `spec.clients`
    pub clients: Clients,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity: Option<u32>,
    /// `spec.onNoBackend`; `None` = the default for the kind of frontend.
    pub on_no_backend: Option<OnNoBackend>,
}

/// `spec.onNoBackend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnNoBackend {
    /// The connection goes where it was dialled.
    Fallback,
    /// The connection fails with EHOSTUNREACH.
    Reject,
}

/// `spec.frontend`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FrontendSpec {
    /// `addressMatcher`
    Address {
        /// The virtual address; mapped addresses are IPv4 here.
        ip: IpAddr,
        /// At least one.
        ports: Vec<Port>,
    },
    /// `serviceMatcher`
    Service {
        /// The Service.
        service: ObjectRef,
        /// Empty = every port of the Service.
        ports: Vec<Port>,
    },
}

/// `spec.backend`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendSpec {
    /// Of a LocalRedirectPolicy: pods of this node.
    LocalPods(PodBackend),
    /// `serviceEndpoint` of a BalancingPolicy: pods of the whole cluster.
    Pods {
        /// Which pods and ports.
        pods: PodBackend,
        /// How they are reached.
        mode: RedirectMode,
    },
    /// `addressEndpoint` of a BalancingPolicy.
    Addresses {
        /// At least one; mapped addresses are IPv4 here.
        addresses: Vec<WeightedAddress>,
        /// At least one.
        ports: Vec<Port>,
    },
}

/// Pods by label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodBackend {
    /// `endpointSelector`
    pub selector: LabelSelector,
    /// `namespace`; `None` = any.
    pub namespace: Option<String>,
    /// At least one.
    pub ports: Vec<BackendPort>,
}

/// A `toPorts` entry of a pod backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendPort {
    /// The port itself.
    pub port: Port,
    /// `targetPort`, in `nodeProxy` mode only.
    pub target: Option<PortRef>,
}

/// An address of `addressEndpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightedAddress {
    /// The address.
    pub ip: IpAddr,
    /// 0..=100; 1 when written as a plain address.
    pub weight: u32,
}

/// `redirectMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedirectMode {
    /// Pod address and port.
    PodEndpoint,
    /// Node address and the pod's host port.
    HostPort,
    /// The node's proxy address and the policy's port.
    NodeProxy,
}

/// `PortInfo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1..=65535
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Lower-case IANA service name, empty when absent.
    pub name: String,
}

/// A Kubernetes label selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LabelSelector {
    /// `matchLabels`
    pub labels: BTreeMap<String, String>,
    /// `matchExpressions`
    pub expressions: Vec<LabelExpression>,
}

/// A `matchExpressions` entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelExpression {
    /// `key`
    pub key: String,
    /// `operator` with its `values`.
    pub operator: LabelOperator,
}

/// `operator` of a label expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LabelOperator {
    /// `In`
    In(BTreeSet<String>),
    /// `NotIn`
    NotIn(BTreeSet<String>),
    /// `Exists`
    Exists,
    /// `DoesNotExist`
    DoesNotExist,
}

impl Pod {
    /// Whether it takes new connections: Ready, not terminating, not finished.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.ready && !self.terminating && !self.finished
    }

    /// Whether the port is open on its node: Kubernetes opens a port that a container declares as `hostPort`,
    /// and every port of a hostNetwork pod is one of its node.
    #[must_use]
    pub fn opens_on_node(&self, port: &Port) -> bool {
        let wanted = (Some(port.port), port.protocol);
        self.host_network || self.ports.iter().any(|p| (p.host_port, p.protocol) == wanted)
    }
}

impl Node {
    /// The zone it is in, by the label `topology.kubernetes.io/zone`; empty when unknown.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.labels.get("topology.kubernetes.io/zone").map_or("", String::as_str)
    }
}

impl LabelSelector {
    /// Whether the labels match: an empty selector matches everything
    /// (Kubernetes, `LabelSelector` of `meta/v1`).
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|e| e.matches(labels))
    }
}

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            LabelOperator::In(values) => value.is_some_and(|v| values.contains(v)),
            LabelOperator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

impl Object {
    /// The key of this object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Pod(o) => {
                ObjectKey::Pod(ObjectRef { namespace: o.namespace.clone(), name: o.name.clone() })
            }
            Self::Node(o) => ObjectKey::Node(o.name.clone()),
            Self::Service(o) => {
                ObjectKey::Service(ObjectRef { namespace: o.namespace.clone(), name: o.name.clone() })
            }
            Self::Policy(o) => ObjectKey::Policy(o.id.clone()),
            Self::Endpoints(o) => ObjectKey::Endpoints(o.slice.clone()),
        }
    }
}
